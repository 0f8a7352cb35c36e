"""Volumes of a prepared archive in training: crops are read from their files, and nothing else is."""

from __future__ import annotations

import zipfile
from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Transform

from common.data.archive import MAX_CENTRES, centres_file, damaged, is_prepared, open_array, same_spacing, thinned
from common.data.contents import check_known_ids
from common.errors import InputError
from common.masking.enclosed import CERTAIN_BACKGROUND
from common.transforms.structures import annotated_channels, check_structures


class OpenPrepared(Transform):
    """Opens the items of an archive; every other item goes through ``otherwise``, to the same entries.

    Args:
        otherwise: from files to volumes in memory.
        spacing: mm that the training is configured for.
        spatial_size: smaller volumes are padded to this.
        fill: HU of the padding.
        structures: {name: id}; open the ``label`` too.

    Raises:
        InputError: missing or damaged files, an archive of another spacing, and unknown ids in a label.
    """

    def __init__(
        self,
        *,
        otherwise: Transform,
        spacing: Sequence[float],
        spatial_size: Sequence[int],
        fill: float,
        structures: Mapping[str, int] | None = None,
    ) -> None:
        self.otherwise = otherwise
        self.spacing = tuple(float(s) for s in spacing)
        self.spatial_size = tuple(spatial_size)
        self.fill = int(fill)
        self.structures = None if structures is None else check_structures(structures)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        if not is_prepared(data["image"]):
            return self.otherwise(data)
        image = PreparedVolume(str(data["image"]), spatial_size=self.spatial_size, fill=self.fill)
        if not same_spacing(image.spacing, self.spacing):
            msg = (
                f"{Path(image.path).parent.parent}: prepared at {_mm(image.spacing)} mm, the training is set to "
                f"{_mm(self.spacing)} mm. Set spacing to the archive's, or prepare another archive at this one."
            )
            raise InputError(msg)
        d: dict[Hashable, Any] = {"image": image}
        if self.structures is not None:
            label = PreparedLabel(str(data["label"]), spatial_size=self.spatial_size, structures=self.structures)
            if data.get("known_ids") is not None:
                check_known_ids(label.voxels_per_id(), label.path, data["known_ids"])
            d |= {"label": label, "label_voxels": CropCentres(label)}
            d["annotated"] = annotated_channels(self.structures, data.get("annotated"))
        return d if "case" not in data else {**d, "case": data["case"]}


class PreparedVolume:
    """A volume (1, H, W, D) of an archive that is read where it is sliced; MONAI's crops ask for no more.

    Args:
        path: its file.
        spatial_size: smallest size; what is smaller is padded on all sides, as by MONAI's ``SpatialPad``.
        fill: value of the padding.

    Raises:
        InputError: a file that is missing or damaged.
    """

    def __init__(self, path: str, *, spatial_size: Sequence[int], fill: int) -> None:
        self.path = path
        self.fill = fill
        array = open_array(path)
        self.dtype = array.dtype
        self.size = tuple(int(n) for n in array.shape[-3:])
        self.spacing = tuple(float(s) for s in array.schunk.vlmeta["spacing"])
        self.shape = (1, *(max(n, m) for n, m in zip(self.size, spatial_size, strict=True)))

    def __getitem__(self, slices: Sequence[slice]) -> MetaTensor:
        """The crop: channel and three slices, without steps."""
        return MetaTensor(torch.from_numpy(self._voxels(self._box(slices), self.fill)[None]))

    def _box(self, slices: Sequence[slice]) -> list[tuple[int, int]]:
        return [s.indices(n)[:2] for s, n in zip(slices[1:], self.shape[1:], strict=True)]

    def _voxels(self, box: Sequence[tuple[int, int]], fill: int, plane: int | None = None) -> np.ndarray:
        """Voxels from start to stop on every axis of the padded volume."""
        before = [(padded - n) // 2 for padded, n in zip(self.shape[1:], self.size, strict=True)]
        inner = [
            slice(min(max(start - b, 0), n), min(max(stop - b, 0), n))
            for (start, stop), b, n in zip(box, before, self.size, strict=True)
        ]
        if any(s.start == s.stop for s in inner):  # nothing but padding
            return np.full([stop - start for start, stop in box], fill, dtype=self.dtype)
        array = open_array(self.path)
        try:
            voxels = array[tuple(inner) if plane is None else (plane, *inner)]
        except (RuntimeError, ValueError, OSError) as error:
            raise damaged(self.path) from error
        if all(s.stop - s.start == stop - start for s, (start, stop) in zip(inner, box, strict=True)):
            return voxels
        whole = np.full([stop - start for start, stop in box], fill, dtype=self.dtype)
        shifts = [b - start for b, (start, _) in zip(before, box, strict=True)]
        whole[tuple(slice(s.start + n, s.stop + n) for s, n in zip(inner, shifts, strict=True))] = voxels
        return whole


class PreparedLabel(PreparedVolume):
    """A label (1, H, W, D) of an archive as channel indices; background outside the body is certain.

    Args:
        path: its file.
        spatial_size: as for :class:`PreparedVolume`.
        structures: {name: id}, in the order of the network's channels.
    """

    def __init__(self, path: str, *, spatial_size: Sequence[int], structures: Mapping[str, int]) -> None:
        super().__init__(path, spatial_size=spatial_size, fill=0)
        self.ids = tuple(structures.values())
        self.table: np.ndarray = np.zeros(256, dtype=np.uint8)
        self.table[list(self.ids)] = np.arange(1, len(self.ids) + 1)

    def __getitem__(self, slices: Sequence[slice]) -> MetaTensor:
        """The crop: channel and three slices, without steps."""
        box = self._box(slices)
        channels = self.table[self._voxels(box, 0, plane=0)]
        outside = self._voxels(box, 1, plane=1)
        channels[(outside == 1) & (channels == 0)] = CERTAIN_BACKGROUND
        return MetaTensor(torch.from_numpy(channels[None]))

    def voxels_per_id(self) -> dict[int, int]:
        """Voxels of every id that occurs."""
        table = _centres(self.path)
        return {int(i): int(n) for i, n in zip(table["ids"], table["counts"], strict=True)}


class CropCentres:
    """Flat indices of voxels to centre crops on, for every channel of a label; read when they are asked for.

    It behaves like a list and is none, since ``CacheDataset`` makes copies of lists.

    Those of a structure are what ``ClassesToIndices`` finds in the whole label. Those of the background are, too, where
    every id of the label is a structure and nothing is padded; else they are thinned in other places.

    Args:
        label: the label.
    """

    def __init__(self, label: PreparedLabel) -> None:
        self.label = label

    def __len__(self) -> int:
        return len(self.label.ids) + 1

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[channel] for channel in range(len(self)))

    def __getitem__(self, channel: int) -> np.ndarray:
        table = _centres(self.label.path)
        ends = table["ends"].tolist()
        kept = dict(zip(table["ids"].tolist(), np.split(table["voxels"], ends[:-1]), strict=True))
        if channel:
            return self._padded(kept.get(self.label.ids[channel - 1], np.zeros(0, np.int32)))
        counts = {i: n for i, n in self.label.voxels_per_id().items() if i not in self.label.ids}
        total = sum(counts.values())
        share = min(MAX_CENTRES / max(total, 1), 1.0)
        parts = [thinned(kept[i], max(1, round(n * share))) for i, n in counts.items()]
        return self._padded(np.sort(np.concatenate(parts)) if parts else np.zeros(0, np.int32))

    def _padded(self, voxels: np.ndarray) -> np.ndarray:
        """Indices in the stored volume as indices in the padded one."""
        size, shape = self.label.size, self.label.shape[1:]
        if size == shape:
            return voxels
        places = np.unravel_index(voxels, size)
        moved = [p + (m - n) // 2 for p, m, n in zip(places, shape, size, strict=True)]
        return np.asarray(np.ravel_multi_index(moved, shape))


@lru_cache(maxsize=4)
def _centres(label: str) -> dict[str, np.ndarray]:
    """The table of :func:`write_centres`; a crop asks for it once per channel, and memory is not to grow with cases."""
    path = centres_file(label)
    try:
        with np.load(path, allow_pickle=False) as content:
            return {name: content[name] for name in ("ids", "counts", "ends", "voxels")}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise damaged(path) from error


def _mm(spacing: Sequence[float]) -> str:
    return " x ".join(f"{s:g}" for s in spacing)

"""Between the ids of label files and the channels of a network.

``structures`` {name: id} is the knob of ``train.json``: channel 0 is the background, channel k the k-th structure in
its order. Label files and written masks carry the ids.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import TransformBackends

from common.errors import InputError
from common.masking.enclosed import CERTAIN_BACKGROUND
from common.transforms.check_volume import check_loaded_label

MAX_ID = 255  # masks are written as uint8


def check_structures(structures: Mapping[str, int]) -> dict[str, int]:
    """The ``structures`` knob as a dictionary of its own.

    Raises:
        InputError: none given, or ids that are not different integers from 1 to 255.
    """
    remedy = "Give {name: id}, for example {'lung_left': 1, 'lung_right': 2}"
    if not isinstance(structures, Mapping) or not structures:
        raise InputError(f"structures: {structures!r} names none. {remedy}.")
    ids = list(structures.values())
    if any(not isinstance(i, int) or isinstance(i, bool) or not 1 <= i <= MAX_ID for i in ids):
        raise InputError(f"structures: ids {ids} must be integers from 1 to {MAX_ID} (0 is the background). {remedy}.")
    if len(ids) >= CERTAIN_BACKGROUND:
        raise InputError(
            f"structures: {len(ids)} are more than a label can hold. Give at most {CERTAIN_BACKGROUND - 1}."
        )
    if len(set(ids)) < len(ids):
        raise InputError(f"structures: ids {ids} name one id twice. {remedy}.")
    return dict(structures)


def annotated_channels(structures: Mapping[str, int], annotated: Collection[int] | None) -> torch.Tensor:
    """Which channels a case's label file tells about: bool (N + 1,), the background's always ``True``.

    Args:
        structures: {name: id}, N of them.
        annotated: ids annotated in the case; ``None``: all.
    """
    known = [annotated is None or i in annotated for i in structures.values()]
    return torch.tensor([True, *known])


class StructuresToChannelsd(MapTransform):
    """Label ids to channel indices: (1, H, W, D) of ids -> uint8 of the same shape; other ids become 0.

    The label is checked first: on the image's grid, integers, and no ids besides the entry ``known_ids``, where the
    data list has one. The list of annotated ids (or its absence) becomes a bool tensor (N + 1,), so that cases with
    different annotations make a batch.

    Args:
        keys: labels.
        structures: {name: id}, N of them, in the order of the network's channels.
        image_key: the image that is labelled.
        annotated_key: entry with the annotated ids; absent or ``None``: all structures are.
        known_ids_key: entry with the ids that label files may hold; it is removed.
        allow_missing_keys: whether labels may be missing.

    Raises:
        InputError: naming the label file.
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012 - MONAI's way

    def __init__(
        self,
        keys: KeysCollection = "label",
        *,
        structures: Mapping[str, int],
        image_key: str = "image",
        annotated_key: str = "annotated",
        known_ids_key: str = "known_ids",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.structures = check_structures(structures)
        self.image_key = image_key
        self.annotated_key = annotated_key
        self.known_ids_key = known_ids_key
        # one entry more than ids: larger ids are clamped to it and become background
        self.table = torch.zeros(max(self.structures.values()) + 2, dtype=torch.uint8)
        for channel, i in enumerate(self.structures.values(), start=1):
            self.table[i] = channel

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        known_ids = d.pop(self.known_ids_key, None)
        for key in self.key_iterator(d):
            check_loaded_label(d[key], key, d.get(self.image_key), known_ids)
            d[key] = _look_up(d[key], self.table)
        d[self.annotated_key] = annotated_channels(self.structures, d.get(self.annotated_key))
        return d


class ChannelsToIds:
    """Channel indices to the ids of ``structures``, for predictions: the same shape, uint8.

    Args:
        structures: {name: id}, in the order of the network's channels.
    """

    def __init__(self, *, structures: Mapping[str, int]) -> None:
        ids = check_structures(structures).values()
        self.table = torch.tensor([0, *ids], dtype=torch.uint8)

    def __call__(self, channels: torch.Tensor) -> torch.Tensor:
        return _look_up(channels, self.table)


class ChannelsToIdsd(MapTransform):
    """Dictionary version of :class:`ChannelsToIds`.

    Args:
        keys: predictions, argmax already taken.
        structures: {name: id}, in the order of the network's channels.
        allow_missing_keys: whether entries may be missing.
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012 - MONAI's way

    def __init__(
        self, keys: KeysCollection, *, structures: Mapping[str, int], allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.convert = ChannelsToIds(structures=structures)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.convert(d[key])
        return d


def _look_up(index: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """``table[index]``, with a ``MetaTensor``'s metadata kept."""
    plain = index.as_tensor() if isinstance(index, MetaTensor) else torch.as_tensor(index)
    positions = plain.to(torch.int32).clamp(0, len(table) - 1)
    values = table.to(plain.device)[positions]
    if not isinstance(index, MetaTensor):
        return values
    return MetaTensor(values, meta=index.meta, applied_operations=index.applied_operations)

"""Sliding windows whose weighted scores are summed in place, in a slab that moves through the volume.

Windows come in order along the axis on which the volume is longest. What lies before the next window gets no more
scores, so its planes are finished, and the sums need no more room than one layer of windows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import torch
from monai.data import MetaTensor
from monai.data.utils import compute_importance_map
from monai.inferers import Inferer
from torch import Tensor
from torch.nn import functional as F

from common.transforms.argmax import channel_argmax


class SlabWindows(Inferer):
    """Scores of overlapping windows, averaged with Gaussian weights: those of MONAI's ``SlidingWindowInferer``.

    MONAI's keeps the sums of all classes for the whole volume, one more volume of the weights, and a copy of both at
    the end.

    Args:
        roi_size: window in voxels; a smaller volume is padded with zeros around it.
        overlap: share of a window that its neighbour covers again, in [0, 1).
        sw_batch_size: windows per forward pass.
        stitch_device: where scores are summed; that of the input by default.
        argmax: return the channel with the largest score in place of scores, slab by slab, so that the scores of a
            whole volume never exist.
        half: sum in float16, half the memory of a slab.
        slices: the network is 2D, and the last entry of ``roi_size`` is 1: windows reach it without their last axis.

    Raises:
        ValueError: for an overlap that is none.
    """

    def __init__(
        self,
        *,
        roi_size: Sequence[int],
        overlap: float = 0.5,
        sw_batch_size: int = 1,
        stitch_device: str | None = None,
        argmax: bool = False,
        half: bool = False,
        slices: bool = False,
    ) -> None:
        super().__init__()
        if not 0 <= overlap < 1:
            msg = f"overlap is {overlap}; choose a share of the window, at least 0 and below 1."
            raise ValueError(msg)
        self.roi_size = tuple(roi_size)
        self.overlap = overlap
        self.sw_batch_size = sw_batch_size
        self.stitch_device = stitch_device
        self.argmax = argmax
        self.half = half
        self.slices = slices

    @torch.no_grad()  # sums in place have no gradients
    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """Of an image (B, C, *S): scores (B, N + 1, *S), float32, or channel indices (B, 1, *S), uint8.

        Args:
            network: from windows (n, C, *roi_size) to scores (n, N + 1, *roi_size) of any floating type.
        """
        image = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        padding = [max(window - size, 0) for window, size in zip(self.roi_size, image.shape[2:], strict=True)]
        if any(padding):
            image = F.pad(image, [n for missing in padding[::-1] for n in (missing // 2, missing - missing // 2)])
        device = image.device if self.stitch_device is None else torch.device(self.stitch_device)
        slab: _Slab | None = None
        places = self._places(image.shape[2:])
        windows = [(volume, place) for volume in range(len(image)) for place in places]
        for first in range(0, len(windows), self.sw_batch_size):
            batch = windows[first : first + self.sw_batch_size]
            seen = torch.cat([image[(slice(b, b + 1), slice(None), *self._box(place))] for b, place in batch])
            scores = self._scores(seen, network, *args, **kwargs).to(device)
            if slab is None:
                slab = _Slab(self, image.shape, scores)
            for (volume, place), window in zip(batch, scores, strict=True):
                slab.add(volume, self._box(place), window)
            del scores, window  # room for those of the next windows
        assert slab is not None
        result = slab.finish()
        if any(padding):
            before = [missing // 2 for missing in padding]
            whole = [slice(first, first + n) for first, n in zip(before, inputs.shape[2:], strict=True)]
            result = result[(slice(None), slice(None), *whole)]
        if isinstance(inputs, MetaTensor):
            return MetaTensor(result).copy_meta_from(inputs, copy_attr=False)
        return result

    def long_axis(self, size: Sequence[int]) -> int:
        """The spatial axis along which a slab moves: the one that has most windows, so that a layer is small."""
        return max(range(len(size)), key=lambda axis: size[axis] / self.roi_size[axis])

    def _places(self, size: Sequence[int]) -> list[tuple[int, ...]]:
        """First voxels of all windows, in order along the long axis; the last ones end with the volume."""
        starts = []
        for window, n in zip(self.roi_size, size, strict=True):
            step = max(1, int(window * (1 - self.overlap)))
            starts.append([*range(0, n - window, step), n - window])
        axis = self.long_axis(size)
        return sorted(product(*starts), key=lambda place: place[axis])

    def _box(self, place: Sequence[int]) -> tuple[slice, ...]:
        return tuple(slice(start, start + n) for start, n in zip(place, self.roi_size, strict=True))

    def _scores(self, seen: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        scores = network(seen[..., 0], *args, **kwargs)[..., None] if self.slices else network(seen, *args, **kwargs)
        if scores.shape[2:] != seen.shape[2:]:
            made, of = tuple(scores.shape), tuple(seen.shape)
            msg = f"the network made scores {made} of windows {of}; expected a score per voxel."
            raise ValueError(msg)
        return scores


class _Slab:
    """Weighted sums of the planes that the next windows reach, and the result before them.

    Args:
        windows: what is asked for.
        image_shape: (B, C, *S), at least one window large.
        scores: of the first windows (n, N + 1, *window).
    """

    def __init__(self, windows: SlabWindows, image_shape: Sequence[int], scores: Tensor) -> None:
        volumes, _, *size = image_shape
        channels, device = scores.shape[1], scores.device
        self.axis = windows.long_axis(size)
        shape = list(size)
        shape[self.axis] = self.thickness = windows.roi_size[self.axis]
        dtype = torch.float16 if windows.half else torch.float32
        self.weight = compute_importance_map(windows.roi_size, mode="gaussian", device=device).to(dtype)
        self.sums = torch.zeros(channels, *shape, dtype=dtype, device=device)
        # the largest weighted sum is where the largest mean is
        self.weights = None if windows.argmax else torch.zeros(1, *shape, dtype=dtype, device=device)
        kind: tuple[int, torch.dtype] = (1, torch.uint8) if windows.argmax else (channels, torch.float32)
        self.result = torch.empty(volumes, kind[0], *size, dtype=kind[1], device=device)
        self.volume, self.start = 0, 0

    def add(self, volume: int, box: tuple[slice, ...], scores: Tensor) -> None:
        """Add the scores (N + 1, *window) of the window ``box``; no later one may begin before it."""
        start = box[self.axis].start
        if volume != self.volume:
            self._write(self.thickness)
            self.volume, self.start = volume, 0
        elif start > self.start:
            self._write(start - self.start)
            self.start = start
        here = list(box)
        here[self.axis] = slice(None)
        self.sums[(slice(None), *here)].addcmul_(scores, self.weight)
        if self.weights is not None:
            self.weights[(slice(None), *here)] += self.weight

    def finish(self) -> Tensor:
        """The whole result (B, C, *S)."""
        self._write(self.thickness)
        return self.result

    def _write(self, planes: int) -> None:
        """Move the first planes into the result, and the others to the front."""
        axis = self.axis + 1
        finished = self.sums.narrow(axis, 0, planes)
        result = self.result[self.volume].narrow(axis, self.start, planes)
        if self.weights is None:
            result.copy_(channel_argmax(finished))
        else:
            torch.div(finished, self.weights.narrow(axis, 0, planes), out=result)
        for sums in (self.sums, *([] if self.weights is None else [self.weights])):
            kept = self.thickness - planes
            for first in range(0, kept, planes):  # no further than they move, so that none is read after it is written
                n = min(planes, kept - first)
                sums.narrow(axis, first, n).copy_(sums.narrow(axis, first + planes, n))
            sums.narrow(axis, kept, planes).zero_()

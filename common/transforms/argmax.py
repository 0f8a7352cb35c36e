"""From class scores to one uint8 volume, before anything is resampled."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform
from monai.utils import TransformBackends

# Voxels per block: what is needed beside scores and result stays below 20 MiB (float32), and fits caches.
_BLOCK_VOXELS = 2**20


def channel_argmax(scores: torch.Tensor) -> torch.Tensor:
    """Index of the largest channel; the lowest index where channels are equal.

    A running maximum over channels, in blocks of the first spatial axis. ``scores.max(dim=0)`` writes int64 indices,
    eight bytes per voxel, and took four times as long; ``torch.argmax`` over channels is slower still.

    Args:
        scores: ``(C, *S)``, any floating or integer type, 2 <= C <= 256. A channel that is NaN in a voxel is not chosen
            there, unless it is the first.

    Returns:
        uint8 ``(1, *S)`` on the device of ``scores``.

    Raises:
        ValueError: for one channel, or more than uint8 can count.
    """
    if scores.ndim < 2 or not 2 <= scores.shape[0] <= 256:
        msg = (
            f"scores have shape {tuple(scores.shape)}; expected (C, *S) with 2 to 256 channels, background first. "
            "Threshold the scores of a one-channel network instead."
        )
        raise ValueError(msg)
    result = torch.zeros(scores.shape[1:], dtype=torch.uint8, device=scores.device)
    rows = max(1, _BLOCK_VOXELS // max(1, result[:1].numel()))
    for start in range(0, scores.shape[1], rows):
        block, chosen = scores[:, start : start + rows], result[start : start + rows]
        best = block[0].clone(memory_format=torch.contiguous_format)
        for channel in range(1, scores.shape[0]):
            candidate = block[channel].contiguous()  # a slice of a larger volume is read once, row by short row
            better = (candidate > best).view(torch.uint8)
            # channels come in ascending order, so the larger index is the newer winner
            torch.maximum(chosen, better.mul_(channel), out=chosen)
            torch.maximum(best, candidate, out=best)
    return result[None]


class ArgmaxChannels(Transform):
    """Scores ``(C, *S)`` -> uint8 ``(1, *S)`` channel indices; affine and metadata of a MetaTensor are kept.

    What is uint8 ``(1, *S)`` already stays as it is: an inferer that chooses the channels itself (see
    :class:`common.windows.SlabWindows`) needs less memory.
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012 (MONAI's attribute)

    def __call__(self, scores: torch.Tensor) -> torch.Tensor:
        """See :func:`channel_argmax`."""
        if scores.dtype is torch.uint8 and scores.shape[0] == 1:
            return scores
        if isinstance(scores, MetaTensor):
            result = channel_argmax(scores.as_tensor())
            return MetaTensor(result, meta=scores.meta, applied_operations=scores.applied_operations)
        return channel_argmax(scores)


class ArgmaxChannelsd(MapTransform):
    """Dictionary version of :class:`ArgmaxChannels`.

    Args:
        keys: scores ``(C, *S)``, or channel indices, e.g. ``pred``.
        allow_missing_keys: skip keys that are not there.
    """

    backend = ArgmaxChannels.backend

    def __init__(self, keys: KeysCollection = "pred", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.argmax = ArgmaxChannels()

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Replace the scores of each key by channel indices."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self.argmax(result[key])
        return result

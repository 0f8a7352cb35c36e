"""The three channels of ISD-MAE and TCS-MAE: lung window, mediastinal window, edges."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.data.meta_obj import get_track_meta
from monai.transforms import MapTransform, Transform
from monai.utils import TransformBackends, convert_to_dst_type, convert_to_tensor
from torch import Tensor

from common.transforms.hu_window import check_window, hu_window
from common.transforms.sobel import check_channel_first, edge_axes, sobel_magnitude

LUNG = (-500, 1200)
MEDIASTINUM = (30, 300)


class ChestChannels(Transform):
    """HU (1, *S) to ``(lung, mediastinum, edge)``, float32 (3, *S) in [0, 1].

    ``edge`` is the larger of both windows' Sobel magnitudes (METHODS 6.2, 6.3).

    Args:
        spatial_dims: 2 or 3.
        edge: ``"slice"`` seeks edges within each slice of a volume (the papers), ``"volume"`` in space. The same in 2D.
        lung: level and width of the first channel in HU.
        mediastinum: level and width of the second channel in HU.
        slice_axis: spatial axis across the slices; the last one, feet to head, gives axial slices.
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012  # MONAI's convention

    def __init__(
        self,
        *,
        spatial_dims: int = 3,
        edge: str = "slice",
        lung: Sequence[float] = LUNG,
        mediastinum: Sequence[float] = MEDIASTINUM,
        slice_axis: int = -1,
    ) -> None:
        self.spatial_dims = spatial_dims
        self.axes = edge_axes(spatial_dims, edge, slice_axis)
        self.lung, self.mediastinum = check_window(*lung), check_window(*mediastinum)

    def __call__(self, img: NdarrayOrTensor) -> Tensor:
        """Channels (3, *S) of an image (1, *S) in HU."""
        image = convert_to_tensor(img, track_meta=get_track_meta())
        check_channel_first(image, self.spatial_dims, n_channels=1)
        hu = convert_to_tensor(image, track_meta=False)
        channels = torch.empty((3, *hu.shape[1:]), dtype=torch.float32, device=hu.device)
        for channel, window in zip(channels[:2], (self.lung, self.mediastinum), strict=True):
            channel.copy_(hu_window(hu, *window)[0])
        lung, mediastinum = sobel_magnitude(channels[:2], self.axes)
        torch.maximum(lung, mediastinum, out=channels[2])
        return convert_to_dst_type(channels, dst=image, dtype=torch.float32)[0]


class ChestChannelsd(MapTransform):
    """Dictionary twin of :class:`ChestChannels`.

    Args:
        keys: images (1, *S) in HU.
        spatial_dims: 2 or 3.
        edge: ``"slice"`` or ``"volume"``.
        lung: level and width of the first channel in HU.
        mediastinum: level and width of the second channel in HU.
        slice_axis: spatial axis across the slices.
        allow_missing_keys: leave absent keys alone instead of raising.
    """

    backend = ChestChannels.backend

    def __init__(
        self,
        keys: KeysCollection,
        *,
        spatial_dims: int = 3,
        edge: str = "slice",
        lung: Sequence[float] = LUNG,
        mediastinum: Sequence[float] = MEDIASTINUM,
        slice_axis: int = -1,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.channels = ChestChannels(
            spatial_dims=spatial_dims, edge=edge, lung=lung, mediastinum=mediastinum, slice_axis=slice_axis
        )

    def __call__(self, data: Mapping[Hashable, NdarrayOrTensor]) -> dict[Hashable, Any]:
        """The dictionary with the three channels of its images."""
        d: dict[Hashable, Any] = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.channels(d[key])
        return d

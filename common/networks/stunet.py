"""STU-Net: a residual U-Net in four sizes, from 14 million to 1.4 billion parameters.

Source: Huang et al., "STU-Net", arXiv 2304.06716, and its use in AnatoMask (METHODS section 3.4).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from common.errors import InputError
from common.networks.masked_conv import visible_voxels
from common.networks.stunet_blocks import ResidualBlock, UpBlock, make_conv

# size -> channels and residual blocks of the six stages
SIZES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "S": ((16, 32, 64, 128, 256, 256), (1,) * 6),
    "B": ((32, 64, 128, 256, 512, 512), (1,) * 6),
    "L": ((64, 128, 256, 512, 1024, 1024), (2,) * 6),
    "H": ((96, 192, 384, 768, 1536, 1536), (3,) * 6),
}
N_STAGES = 6


def stunet_widths(
    size: str, features: Sequence[int] | None = None, depths: Sequence[int] | None = None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Channels and blocks of the six stages of a size; ``features`` and ``depths`` replace those of the size.

    Raises:
        ValueError: for an unknown size, or not six positive numbers.
    """
    if size not in SIZES:
        raise ValueError(f"size: got {size!r}. Allowed are {', '.join(map(repr, SIZES))}.")
    chosen = []
    for name, given, own in zip(("features", "depths"), (features, depths), SIZES[size], strict=True):
        numbers = own if given is None else tuple(int(n) for n in given)
        if len(numbers) != N_STAGES or min(numbers) < 1:
            raise ValueError(f"{name}: got {given}. Give {N_STAGES} numbers of at least 1, one per stage, or none.")
        chosen.append(numbers)
    return chosen[0], chosen[1]


class STUNetEncoder(nn.Module):
    """The first stages of STU-Net, as children ``stage_0`` to ``stage_5``, whatever is built on them.

    Stage 0 keeps the image's resolution, stages 1 to 4 halve it. The same modules make a dense pass and a masked one
    (:mod:`common.networks.masked_conv`), so that pretrained weights are loaded as they are.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        size: ``"S"``, ``"B"``, ``"L"`` or ``"H"``.
        features: channels of the six stages in place of the size's.
        depths: residual blocks of the six stages in place of the size's.
        last_stride: of stage 5: 1, so that a crop must be a multiple of 16 (nnU-Net's plan for 112 x 112 x 128), or 2
            (that for 128 x 128 x 128).
        n_stages: 6, or 5 without the last one (pretraining).

    Raises:
        ValueError: for an argument out of range.
    """

    def __init__(
        self,
        *,
        spatial_dims: int = 3,
        in_channels: int = 1,
        size: str = "B",
        features: Sequence[int] | None = None,
        depths: Sequence[int] | None = None,
        last_stride: int = 1,
        n_stages: int = N_STAGES,
    ) -> None:
        super().__init__()
        if spatial_dims not in (2, 3):
            raise ValueError(f"spatial_dims: got {spatial_dims}. Allowed are 2 and 3.")
        if in_channels < 1:
            raise ValueError(f"in_channels: got {in_channels}. Give at least 1.")
        if last_stride not in (1, 2):
            raise ValueError(f"last_stride: got {last_stride}. Allowed are 1 and 2.")
        if n_stages not in (N_STAGES - 1, N_STAGES):
            raise ValueError(f"n_stages: got {n_stages}. Allowed are 5 and 6.")
        self.spatial_dims = spatial_dims
        self.in_channels = in_channels
        self.features, self.depths = stunet_widths(size, features, depths)
        self.strides = (1, 2, 2, 2, 2, last_stride)[:n_stages]
        self.total_stride = 16 * (last_stride if n_stages == N_STAGES else 1)
        channels = in_channels
        for i, stride in enumerate(self.strides):
            width = self.features[i]
            blocks = [
                ResidualBlock(
                    spatial_dims=spatial_dims,
                    in_channels=channels if k == 0 else width,
                    out_channels=width,
                    stride=stride if k == 0 else 1,
                    project=k == 0,
                )
                for k in range(self.depths[i])
            ]
            self.add_module(f"stage_{i}", nn.ModuleList(blocks))
            channels = width

    def encode(self, x: Tensor, visible: Tensor | None = None, batch_pooled: bool = False) -> list[Tensor]:
        """Maps of all stages, finest first.

        Args:
            x: image (B, C, *S).
            visible: bool (B, *grid) of patches: a masked pass. What is hidden influences nothing, not even where it
                is not a number, and every map is 0 there.
            batch_pooled: see :class:`common.networks.masked_conv.InstanceNorm`.

        Raises:
            InputError: when the image has another number of axes or channels, or a size that the total stride does not
                divide.
        """
        self._check(x)
        if visible is not None:
            x = x.masked_fill(visible_voxels(visible, x.shape[2:]) == 0, 0.0)
        maps = []
        for i, stride in enumerate(self.strides):
            shape = [size // stride for size in x.shape[2:]]
            voxels = None if visible is None else visible_voxels(visible, shape)
            for block in self.get_submodule(f"stage_{i}").children():
                x = block(x, voxels, batch_pooled)
            maps.append(x)
        return maps

    def _check(self, x: Tensor) -> None:
        if torch.jit.is_tracing():
            return  # a trace would record this image's size as the only one
        if x.dim() != self.spatial_dims + 2 or x.shape[1] != self.in_channels:
            raise InputError(
                f"image: got shape {list(x.shape)}. This network takes (B, {self.in_channels}, *S) with "
                f"{self.spatial_dims} spatial axes."
            )
        if any(size % self.total_stride for size in x.shape[2:]):
            raise InputError(
                f"image: got spatial size {list(x.shape[2:])}. Every axis must be a multiple of {self.total_stride}: "
                "pad the image or choose another roi_size."
            )


class STUNet(STUNetEncoder):
    """STU-Net for segmentation.

    In training it returns the scores at five resolutions, finest first (for
    :class:`common.losses.deep_supervision.DeepSupervisionLoss`); in evaluation mode, and when exported, those of the
    image's resolution alone.

    Args:
        out_channels: classes, background included.
        deep_supervision: ``False`` scores the image's resolution only, in training too.
        spatial_dims, in_channels, size, features, depths, last_stride: see :class:`STUNetEncoder`.

    Example:
        >>> network = STUNet(out_channels=2, size="S").eval()
        >>> network(torch.zeros(1, 1, 32, 32, 32)).shape
        torch.Size([1, 2, 32, 32, 32])
    """

    def __init__(
        self,
        *,
        spatial_dims: int = 3,
        in_channels: int = 1,
        out_channels: int,
        size: str = "B",
        features: Sequence[int] | None = None,
        depths: Sequence[int] | None = None,
        last_stride: int = 1,
        deep_supervision: bool = True,
    ) -> None:
        super().__init__(
            spatial_dims=spatial_dims,
            in_channels=in_channels,
            size=size,
            features=features,
            depths=depths,
            last_stride=last_stride,
        )
        if out_channels < 1:
            raise ValueError(f"out_channels: got {out_channels}. Give at least 1.")
        self.out_channels = out_channels
        self.deep_supervision = deep_supervision
        coarse_to_fine = range(N_STAGES - 2, -1, -1)
        self.decoder = nn.ModuleList(
            UpBlock(
                spatial_dims=spatial_dims,
                in_channels=self.features[i + 1],
                out_channels=self.features[i],
                depth=self.depths[i],
                stride=self.strides[i + 1],
            )
            for i in coarse_to_fine
        )
        self.head = nn.ModuleList(
            make_conv(spatial_dims, self.features[i], out_channels, 1)
            for i in range(N_STAGES - 1 if deep_supervision else 1)
        )

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Image (B, C, *S) -> scores (B, out_channels, *S), or a list of them from fine to coarse."""
        *skips, y = self.encode(x)
        decoded: list[Tensor] = []
        for up, skip in zip(self.decoder, reversed(skips), strict=True):
            y = up(y, skip)
            decoded.insert(0, y)
        if self.training and self.deep_supervision:
            return [head(y) for head, y in zip(self.head, decoded, strict=True)]
        scores: Tensor = self.head[0](decoded[0])
        return scores

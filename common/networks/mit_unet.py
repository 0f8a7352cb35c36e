"""U-Net with a Mix Transformer encoder: the network that the bundles pretrain, fine-tune and run."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from common.errors import InputError
from common.networks.mix_transformer import MixTransformer
from common.networks.unet_decoder import UNetDecoder


class MixTransformerUNet(nn.Module):
    """Mix Transformer, U-Net decoder, and a 3x3(x3) convolution to the outputs (ISD-MAE, arXiv 2411.13198).

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        out_channels: reconstructed channels, or classes.
        variant: encoder size, ``"b0"`` to ``"b5"``.
        stem_stride: 4 (the paper) or 2, see :class:`~common.networks.mix_transformer.MixTransformer`.
        decoder_channels: per decoder block, coarsest first: five for ``stem_stride`` 4, four for 2.
        norm: of the decoder: ``"instance"`` or ``"batch"`` (the paper).
        drop_path_rate: of the last encoder block.

    Example:
        >>> network = MixTransformerUNet(out_channels=2, variant="b0", stem_stride=2, decoder_channels=(64, 32, 16, 8))
        >>> network(torch.zeros(1, 3, 32, 32, 32)).shape
        torch.Size([1, 2, 32, 32, 32])
    """

    def __init__(
        self,
        *,
        spatial_dims: int = 3,
        in_channels: int = 3,
        out_channels: int,
        variant: str = "b2",
        stem_stride: int = 4,
        decoder_channels: Sequence[int] = (512, 256, 128, 128, 128),
        norm: str = "instance",
        drop_path_rate: float = 0.1,
    ) -> None:
        super().__init__()
        if out_channels < 1:
            raise ValueError(f"out_channels: got {out_channels}. Give at least 1.")
        self.encoder = MixTransformer(
            spatial_dims=spatial_dims,
            in_channels=in_channels,
            variant=variant,
            stem_stride=stem_stride,
            drop_path_rate=drop_path_rate,
        )
        self.decoder = UNetDecoder(
            spatial_dims=spatial_dims,
            encoder_channels=self.encoder.channels,
            encoder_strides=self.encoder.strides,
            channels=decoder_channels,
            norm=norm,
        )
        conv = nn.Conv3d if spatial_dims == 3 else nn.Conv2d
        self.head = conv(self.decoder.out_channels, out_channels, kernel_size=3, padding=1)
        nn.init.xavier_uniform_(self.head.weight)
        nn.init.zeros_(self.head.get_parameter("bias"))
        self.spatial_dims = spatial_dims
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.total_stride: int = self.encoder.strides[-1]

    def forward(self, x: Tensor) -> Tensor:
        """Image (B, C, *S) -> logits (B, out_channels, *S)."""
        return self.head(self.decode(self.encode(x)))

    def freeze_decoder(self) -> None:
        """For what trains the encoder alone: parts that take no part would stop a training on several GPUs."""
        self.decoder.requires_grad_(False)
        self.head.requires_grad_(False)

    @torch.jit.export
    def encode(self, x: Tensor) -> list[Tensor]:
        """Image (B, C, *S) -> the encoder's maps, finest first.

        Raises:
            InputError: when the image has another number of axes or channels, or a size that the total stride does not
                divide.
        """
        self._check(x)
        return self.encoder(x)

    @torch.jit.export
    def decode(self, features: list[Tensor]) -> Tensor:
        """The encoder's maps -> (B, C, *S), what the head sees."""
        return self.decoder(features)

    def _check(self, x: Tensor) -> None:
        if torch.jit.is_tracing():
            return  # a trace would record this image's size as the only one
        if x.dim() != self.spatial_dims + 2 or x.shape[1] != self.in_channels:
            raise InputError(
                f"image: got shape {list(x.shape)}. This network takes (B, {self.in_channels}, *S) with "
                f"{self.spatial_dims} spatial axes."
            )
        for size in x.shape[2:]:
            if size % self.total_stride != 0:
                raise InputError(
                    f"image: got spatial size {list(x.shape[2:])}. Every axis must be a multiple of "
                    f"{self.total_stride}: pad the image or choose another roi_size."
                )

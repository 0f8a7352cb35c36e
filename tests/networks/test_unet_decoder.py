"""U-Net decoder: shapes, skips, arguments."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from common.networks.unet_decoder import UNetDecoder


@pytest.mark.parametrize(
    ("variant_channels", "spatial_dims", "millions"),
    [
        ((32, 64, 160, 256), 2, 7.27),
        ((64, 128, 320, 512), 2, 9.37),
        ((32, 64, 160, 256), 3, 21.79),
        ((64, 128, 320, 512), 3, 28.09),
    ],
)
def test_parameter_counts_of_the_paper(variant_channels: tuple[int, ...], spatial_dims: int, millions: float) -> None:
    with torch.device("meta"):
        decoder = UNetDecoder(
            spatial_dims=spatial_dims, encoder_channels=variant_channels, encoder_strides=(4, 8, 16, 32), norm="batch"
        )
    assert round(sum(p.numel() for p in decoder.parameters()) / 1e6, 2) == millions


@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize(("spatial_dims", "strides"), [(2, (4, 8)), (3, (2, 4))])
def test_full_resolution_and_every_map_is_used(spatial_dims: int, strides: tuple[int, ...], norm: str) -> None:
    decoder = UNetDecoder(
        spatial_dims=spatial_dims,
        encoder_channels=(3, 5),
        encoder_strides=strides,
        channels=(6, 4, 2)[: strides[-1].bit_length() - 1],
        norm=norm,
    )
    maps = [
        torch.rand(2, c, *[16 // s] * spatial_dims, requires_grad=True) for c, s in zip((3, 5), strides, strict=True)
    ]
    y = decoder(maps)
    assert y.shape == (2, decoder.out_channels, *[16] * spatial_dims)
    y.square().sum().backward()
    assert all(m.grad is not None and m.grad.abs().sum() > 0 for m in maps)


def test_instance_norm_does_not_mix_samples() -> None:
    decoder = UNetDecoder(spatial_dims=2, encoder_channels=(2,), encoder_strides=(2,), channels=(4,), norm="instance")
    a, b = torch.rand(1, 2, 4, 4), torch.rand(1, 2, 4, 4)
    torch.testing.assert_close(decoder([torch.cat([a, b])])[:1], decoder([a]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": (4, 4, 4)}, "needs 4 positive numbers"),
        ({"norm": "layer"}, "'batch' and 'instance'"),
        ({"spatial_dims": 1}, "spatial_dims"),
        ({"encoder_strides": (2, 8)}, "encoder_strides"),
        ({"encoder_strides": (3, 6)}, "encoder_strides"),
        ({"encoder_strides": (8, 16, 32)}, "encoder_strides"),
    ],
)
def test_arguments_out_of_range(arguments: dict[str, Any], message: str) -> None:
    valid: dict[str, Any] = {"encoder_channels": (2, 2), "encoder_strides": (8, 16), "channels": (4, 4, 4, 4)}
    with pytest.raises(ValueError, match=message):
        UNetDecoder(**{**valid, **arguments})

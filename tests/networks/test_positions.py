"""Positions of tokens."""

from __future__ import annotations

import pytest
import torch
from monai.networks.blocks.pos_embed_utils import build_sincos_position_embedding

from common.networks.positions import grid_of_proportions, resample_positions, sincos_positions


@pytest.mark.parametrize("grid", [(3, 5), (2, 3, 4)])
def test_as_monais_but_for_the_order_of_axes(grid: tuple[int, ...]) -> None:
    channels, d = 24, len(grid)
    ours = sincos_positions(grid, channels).view(-1, d, channels // d)
    theirs = build_sincos_position_embedding(grid, channels, spatial_dims=d).view(-1, d, channels // d)
    torch.testing.assert_close(ours, theirs[:, [1, 0, *range(2, d)]])


def test_by_hand() -> None:
    """Two frequencies, 1 and 1 / 100, along two axes."""
    second = sincos_positions((1, 2), 8)[0, 1]
    expected = torch.tensor([0, 0, 1, 1, 1.0, 0.01, 1.0, 0.01])
    expected[4:6], expected[6:] = expected[4:6].sin(), expected[6:].cos()
    torch.testing.assert_close(second, expected)


def test_channels_that_are_left_over_are_zero() -> None:
    """ViT-L: 1024 = 6 x 170 + 4."""
    table = sincos_positions((2, 2, 2), 1024)
    assert table.shape == (1, 8, 1024)
    assert not table[..., 1020:].any()
    assert torch.equal(table[..., :1020], sincos_positions((2, 2, 2), 1020))


def test_too_few_channels() -> None:
    with pytest.raises(ValueError, match="at least 2 per axis"):
        sincos_positions((2, 2, 2), 5)


def test_resampling_keeps_a_grid_and_stretches_a_ramp() -> None:
    ramp = torch.arange(4.0)[:, None, None].expand(4, 2, 2).reshape(1, 16, 1)
    torch.testing.assert_close(resample_positions(ramp, (4, 2, 2), (4, 2, 2)), ramp)
    stretched = resample_positions(ramp, (4, 2, 2), (8, 4, 4)).view(8, 4, 4)
    torch.testing.assert_close(stretched[2:6, 1, 3], torch.tensor([0.75, 1.25, 1.75, 2.25]))
    assert torch.equal(stretched[:, 0, 0], stretched[:, 3, 3])


@pytest.mark.parametrize(
    ("n", "grid", "expected"),
    [
        (512, (6, 6, 6), (8, 8, 8)),
        (216, (6, 6, 6), (6, 6, 6)),
        (500, (6, 6, 6), None),
        (50, (8, 8, 6), None),
        (48, (8, 8, 6), (4, 4, 3)),
        (48, (2, 6), (4, 12)),
    ],
)
def test_grid_of_proportions(n: int, grid: tuple[int, ...], expected: tuple[int, ...] | None) -> None:
    assert grid_of_proportions(n, grid) == expected

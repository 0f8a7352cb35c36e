"""Random transforms of a batch on its device."""

from __future__ import annotations

import math

import pytest
import torch

from common.methods.augmentation import jitter_intensity, random_affine, shift_voxels, warp


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("shape", [(9, 12), (6, 9, 12)])
def test_no_change_is_the_identity(shape: tuple[int, ...]) -> None:
    transform = random_affine(2, shape, rotate_degrees=0, translate=0, scale=0, generator=generator())
    image = torch.rand(2, 3, *shape, generator=generator())
    torch.testing.assert_close(warp(image, transform), image, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", [(40, 24), (32, 40, 24)])
def test_turns_and_scales_keep_shapes_whatever_the_image_size(shape: tuple[int, ...]) -> None:
    """A ball stays a ball: coordinates are those of voxels, not of the image's sides."""
    axes = torch.meshgrid(*[torch.arange(s) - (s - 1) / 2 for s in shape], indexing="ij")
    ball = torch.sigmoid(7 - torch.stack(axes).square().sum(0).sqrt())[None, None]
    turned = warp(ball, random_affine(1, shape, rotate_degrees=90, translate=0, scale=0, generator=generator(1)))
    torch.testing.assert_close(turned, ball, atol=0.06, rtol=0)
    scaled = warp(ball, random_affine(1, shape, rotate_degrees=0, translate=0, scale=0.2, generator=generator(1)))
    extents = [
        scaled.sum(tuple(a for a in range(2, scaled.ndim) if a != axis + 2)).flatten() for axis in range(len(shape))
    ]
    spread = [(e * (torch.arange(len(e)) - (len(e) - 1) / 2).square()).sum() / e.sum() for e in extents]
    assert max(spread) / min(spread) < 1.02
    assert abs(scaled.sum() / ball.sum() - 1) > 0.05


@pytest.mark.parametrize("d", [2, 3])
def test_draws_lie_in_their_ranges_and_differ(d: int) -> None:
    transform = random_affine(500, (16,) * d, rotate_degrees=20, translate=0.05, scale=0.1, generator=generator())
    linear, shift = transform[..., :d], transform[..., d]
    sizes = torch.linalg.det(linear) ** (-1 / d)
    assert 0.9 <= sizes.min() < 0.92
    assert 1.08 < sizes.max() <= 1.1
    assert 0.09 < shift.abs().max() <= 0.1  # coordinates run over 2
    if d == 2:
        angles = torch.rad2deg(torch.atan2(linear[:, 1, 0], linear[:, 0, 0]))
        assert 19 < angles.abs().max() <= 20 + 1e-3
        turn = linear * sizes[:, None, None]
        torch.testing.assert_close(turn @ turn.mT, torch.eye(2).expand(500, 2, 2), atol=1e-5, rtol=0)


def test_shift_is_in_parts_of_the_size() -> None:
    image = torch.zeros(1, 1, 40, 20)
    image[..., 20, 10] = 1
    transform = random_affine(1, (40, 20), rotate_degrees=0, translate=0.25, scale=0, generator=generator(3))
    column, row = transform[0, :, 2] / 2  # the last axis comes first
    moved = warp(image, transform)[0, 0]
    centre = [(moved.sum(1 - a) * torch.arange(moved.shape[a])).sum() / moved.sum() for a in (0, 1)]
    assert centre[0].item() == pytest.approx(20 - 40 * row.item(), abs=1e-3)
    assert centre[1].item() == pytest.approx(10 - 20 * column.item(), abs=1e-3)


def test_beyond_the_border_is_zero() -> None:
    image = torch.ones(1, 1, 16, 16)
    transform = random_affine(1, (16, 16), rotate_degrees=45, translate=0, scale=0, generator=generator(2))
    assert math.isclose(warp(image, transform)[0, 0, 8, 8].item(), 1, abs_tol=1e-5)
    assert warp(image, transform).min() == 0


def test_a_shift_by_whole_voxels_by_hand() -> None:
    image = torch.tensor([[0.0, 1, 2], [3, 4, 5]]).expand(2, 1, 2, 3)
    moved = shift_voxels(image, torch.tensor([[0, 1], [1, 2]]))
    assert moved[0, 0].tolist() == [[1, 2, 2], [4, 5, 5]]
    assert moved[1, 0].tolist() == [[5, 5, 5], [5, 5, 5]]
    volume = torch.rand(1, 2, 3, 4, 5, generator=generator())
    moved = shift_voxels(volume, torch.tensor([[0, 0, 2]]))
    assert torch.equal(moved[..., :3], volume[..., 2:])
    assert torch.equal(moved[..., 3:], volume[..., 4:].expand(1, 2, 3, 4, 2))


def test_jitter_changes_some_samples_by_one_straight_line_each() -> None:
    image = 0.4 + 0.2 * torch.rand(200, 2, 4, 4, generator=generator())  # far from 0 and 1: nothing is cut off
    made = jitter_intensity(image, strength=0.4, probability=0.8, generator=generator(1))
    changed = (made != image).flatten(1).any(1)
    assert 0.7 < changed.float().mean() < 0.9
    x, y = image.flatten(1), made.flatten(1)
    slope = ((x - x.mean(1, True)) * (y - y.mean(1, True))).sum(1) / (x - x.mean(1, True)).square().sum(1)
    torch.testing.assert_close(slope[:, None] * (x - x.mean(1, True)), y - y.mean(1, True), atol=1e-5, rtol=0)
    brightness = y.mean(1) / x.mean(1)
    assert 0.6 <= brightness.min() < 0.7
    assert 1.3 < brightness.max() <= 1.4
    contrast = slope / brightness
    assert 0.6 <= contrast.min() + 1e-4 < 0.7
    assert 1.3 < contrast.max() <= 1.4 + 1e-4
    assert jitter_intensity(image, strength=0.9, probability=1.0, generator=generator()).amax() <= 1

"""Patch losses: order of patches, masks, normalised targets, reductions."""

from __future__ import annotations

import pytest
import torch

from common.losses.reconstruction import masked_patch_loss, normalise_patches, patch_loss_map
from common.masking.patches import patch_mask, patchify, upsample_patch_mask


def images(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(shape, generator=generator), torch.rand(shape, generator=generator)


def test_patches_in_grid_order_voxels_then_channels():
    image = torch.arange(2 * 4 * 4).view(1, 2, 4, 4)
    patches = patchify(image, 2)
    assert patches.shape == (1, 4, 8)
    # second patch of the first row: voxels (0, 2), (0, 3), (1, 2), (1, 3), channels 0 and 1 of each
    assert patches[0, 1].tolist() == [2, 18, 3, 19, 6, 22, 7, 23]


def test_patches_3d_with_unequal_edges():
    image = torch.rand(2, 3, 4, 6, 2)
    patches = patchify(image, (2, 3, 1))
    assert patches.shape == (2, 8, 18)
    expected = image[1, :, 2:4, 0:3, 1].permute(1, 2, 0).flatten()
    assert torch.equal(patches[1, 5], expected)  # grid place (1, 0, 1) of (2, 2, 2)


@pytest.mark.parametrize("kind", ["mse", "l1"])
@pytest.mark.parametrize("shape", [(2, 3, 8, 6), (2, 1, 4, 6, 8)])
def test_equals_the_mean_over_hidden_voxels(shape, kind):
    x, y = images(*shape)
    mask = patch_mask(2, [s // 2 for s in shape[2:]], mask_ratio=0.4, generator=torch.Generator().manual_seed(1))
    voxels = upsample_patch_mask(mask, 2, shape[2:]).expand(shape)
    difference = (x - y)[voxels]
    expected = difference.square().mean() if kind == "mse" else difference.abs().mean()
    for reduction in ("global", "per_sample"):  # equally many hidden in each: the same
        value = masked_patch_loss(x, y, mask, patch_size=2, kind=kind, reduction=reduction)
        assert value.item() == pytest.approx(expected.item(), rel=1e-5)


def test_reductions_by_hand():
    """Sample 0 hides two patches of error 1, sample 1 one of error 4."""
    target = torch.zeros(2, 1, 2, 2)
    found = torch.ones(2, 1, 2, 2)
    found[1] = 2
    mask = torch.tensor([[True, True, False, False], [False, False, False, True]])
    assert masked_patch_loss(found, target, mask, patch_size=1).item() == pytest.approx((1 + 1 + 4) / 3)
    assert masked_patch_loss(found, target, mask, patch_size=1, reduction="per_sample").item() == pytest.approx(2.5)


@pytest.mark.parametrize(("normalise", "correction"), [("unbiased", 1), ("biased", 0)])
def test_normalised_targets(normalise, correction):
    x, y = images(1, 2, 4, 4)
    patches = patchify(y, 2)
    wanted = (patches - patches.mean(-1, keepdim=True)) / (
        patches.var(-1, keepdim=True, correction=correction) + 1e-6
    ).sqrt()
    expected = (patchify(x, 2) - wanted).square().mean(-1)
    assert torch.allclose(patch_loss_map(x, y, patch_size=2, normalise=normalise), expected, atol=1e-5)


def test_a_constant_patch_has_a_finite_normalised_target():
    x, _ = images(1, 1, 4, 4)
    value = patch_loss_map(x, torch.full_like(x, 0.7), patch_size=2, normalise="unbiased")
    assert torch.allclose(value, patchify(x, 2).square().mean(-1), atol=1e-5)


@pytest.mark.parametrize("reduction", ["global", "per_sample"])
def test_nothing_hidden_is_zero_with_its_graph(reduction):
    x, y = images(2, 1, 4, 4)
    x.requires_grad_()
    value = masked_patch_loss(x, y, torch.zeros(2, 2, 2, dtype=torch.bool), patch_size=2, reduction=reduction)
    value.backward()
    assert value.item() == 0
    assert torch.equal(x.grad, torch.zeros_like(x))


def test_visible_patches_get_no_gradient():
    x, y = images(1, 1, 4, 4)
    x.requires_grad_()
    mask = torch.tensor([[[True, False], [False, False]]])
    masked_patch_loss(x, y, mask, patch_size=2).backward()
    assert x.grad[0, 0, :2, :2].abs().min() > 0
    assert x.grad.count_nonzero() == 4


def test_half_precision_is_computed_in_float32():
    x, y = (image.bfloat16() for image in images(1, 1, 4, 4))
    losses = patch_loss_map(x, y, patch_size=2)
    assert losses.dtype == torch.float32
    assert torch.equal(losses, patch_loss_map(x.float(), y.float(), patch_size=2))


def test_bad_arguments_are_refused():
    x, y = images(1, 1, 4, 4)
    mask = torch.zeros(1, 2, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match="does not divide"):
        patchify(x, 3)
    with pytest.raises(ValueError, match="Give two images of the same shape"):
        patch_loss_map(x, y[..., :2], patch_size=2)
    with pytest.raises(ValueError, match="kind, normalise"):
        patch_loss_map(x, y, patch_size=2, kind="huber")
    with pytest.raises(ValueError, match="kind, normalise"):
        patch_loss_map(x, y, patch_size=2, normalise="both")
    with pytest.raises(ValueError, match="'global', 'per_sample'"):
        masked_patch_loss(x, y, mask, patch_size=2, reduction="sum")
    with pytest.raises(ValueError, match="one value per patch"):
        masked_patch_loss(x, y, mask[:, :1], patch_size=2)


def test_normalised_patches_and_the_way_back():
    patches = torch.tensor([[[1.0, 3.0], [5.0, 5.0]]])
    for variance, sd in (("biased", 1.0), ("unbiased", 2**0.5)):
        normalised, mean, spread = normalise_patches(patches, variance=variance)
        torch.testing.assert_close(normalised[0, 0], torch.tensor([-1.0, 1.0]) / sd)
        assert normalised[0, 1].tolist() == [0, 0]  # a flat patch is no division by 0
        torch.testing.assert_close(normalised * spread + mean, patches)


def test_unknown_variance():
    with pytest.raises(ValueError, match="variance"):
        normalise_patches(torch.zeros(1, 1, 2), variance="other")

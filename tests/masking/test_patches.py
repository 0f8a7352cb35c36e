"""Random patches: exact counts, own masks per sample, voxels in the right place."""

from __future__ import annotations

import pytest
import torch

from common.masking.patches import (
    grid_size,
    n_masked_patches,
    patch_mask,
    patchify,
    unpatchify,
    upsample_patch_mask,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("n", "ratio", "rule", "masked"),
    [
        (392, 0.6, "floor_keep", 236),
        (392, 0.6, "round_keep", 235),
        (216, 0.6, "round_keep", 130),
        (512, 0.6, "round_keep", 307),
        (100, 0.9, "floor_keep", 90),  # 100 * (1 - 0.9) is 9.999999999999998
        (216, 0.5, "floor_keep", 108),
        (5, 0.0, "floor_keep", 0),
    ],
)
def test_counts(n, ratio, rule, masked):
    assert n_masked_patches(n, ratio, rule) == masked


@pytest.mark.parametrize("grid", [(6, 5), (4, 3, 5)])
@pytest.mark.parametrize("rule", ["floor_keep", "round_keep"])
def test_every_sample_hides_exactly_the_count_and_other_patches(grid, rule):
    mask = patch_mask(4, grid, mask_ratio=0.6, rule=rule, generator=generator())
    assert mask.shape == (4, *grid)
    assert mask.dtype == torch.bool
    n = mask[0].numel()
    assert (mask.flatten(1).sum(1) == n_masked_patches(n, 0.6, rule)).all()
    assert len({tuple(m.flatten().tolist()) for m in mask}) == 4


def test_all_patches_are_equally_likely():
    mask = patch_mask(4000, (8,), mask_ratio=0.25, generator=generator())
    assert torch.allclose(mask.float().mean(0), torch.full((8,), 0.25), atol=0.03)


def test_bernoulli_varies_in_number():
    mask = patch_mask(400, (4, 4), mask_ratio=0.3, rule="bernoulli", generator=generator())
    counts = mask.flatten(1).sum(1)
    assert counts.unique().numel() > 3
    assert abs(counts.float().mean() / 16 - 0.3) < 0.03


def test_the_generator_decides():
    first = patch_mask(2, (4, 4), mask_ratio=0.5, generator=generator(1))
    assert torch.equal(first, patch_mask(2, (4, 4), mask_ratio=0.5, generator=generator(1)))
    assert not torch.equal(first, patch_mask(2, (4, 4), mask_ratio=0.5, generator=generator(2)))


@pytest.mark.parametrize(("shape", "patch"), [((8, 6), 2), ((4, 6, 9), (2, 3, 3))])
def test_voxels_follow_their_patch(shape, patch):
    mask = patch_mask(2, grid_size(shape, patch), mask_ratio=0.5, generator=generator())
    voxels = upsample_patch_mask(mask, patch, shape)
    assert voxels.shape == (2, 1, *shape)
    edges = (patch,) * len(shape) if isinstance(patch, int) else patch
    for place in torch.cartesian_prod(*map(torch.arange, shape)).tolist():
        patch_index = tuple(x // p for x, p in zip(place, edges, strict=True))
        assert torch.equal(voxels[(slice(None), 0, *place)], mask[(slice(None), *patch_index)])


def test_border_patches_are_cropped():
    assert grid_size((7, 9), 4) == (2, 3)
    mask = torch.tensor([[[True, False, True], [False, True, False]]])
    voxels = upsample_patch_mask(mask, 4, (7, 9))
    assert voxels.shape == (1, 1, 7, 9)
    assert voxels[0, 0, :4, 8:].all()
    assert voxels.sum() == 4 * 4 + 4 * 1 + 3 * 4


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 1.5])
def test_a_ratio_out_of_range_is_refused(ratio):
    with pytest.raises(ValueError, match="mask_ratio: got"):
        patch_mask(1, (2, 2), mask_ratio=ratio)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="patch_size: got"):
        grid_size((8, 8), (2, 2, 2))
    with pytest.raises(ValueError, match="'floor_keep', 'round_keep', 'bernoulli'"):
        patch_mask(1, (2, 2), mask_ratio=0.5, rule="ceil")
    with pytest.raises(ValueError, match="bernoulli"):
        n_masked_patches(4, 0.5, "bernoulli")
    with pytest.raises(ValueError, match=r"has \(4, 4\)"):
        upsample_patch_mask(torch.zeros(1, 2, 2, dtype=torch.bool), 2, (8, 8))


@pytest.mark.parametrize(("shape", "patch"), [((6, 4), (3, 2)), ((4, 6, 8), (2, 3, 4))])
@pytest.mark.parametrize("channels", [1, 3])
def test_unpatchify_undoes_patchify(shape, patch, channels):
    x = torch.rand(2, channels, *shape, generator=generator())
    assert torch.equal(unpatchify(patchify(x, patch), patch, shape), x)


def test_unpatchify_refuses_another_shape():
    with pytest.raises(ValueError, match="Give 4 patches of 4 voxels"):
        unpatchify(torch.zeros(1, 6, 4), 2, (4, 4))

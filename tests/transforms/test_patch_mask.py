"""Patch mask as a transform."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor

from common.transforms.patch_mask import RandPatchMask, RandPatchMaskd


@pytest.mark.parametrize(("shape", "patch"), [((3, 8, 12), 4), ((2, 8, 8, 8), 4), ((1, 4, 6, 2), (2, 3, 1))])
def test_exactly_half_of_the_patches_is_filled_in_all_channels(shape, patch):
    image = torch.rand(shape) + 1
    masked = RandPatchMask(patch_size=patch, mask_ratio=0.5).set_random_state(0)(image)
    hidden = masked == 0
    assert torch.equal(hidden, hidden[:1].expand(shape))
    assert hidden.float().mean().item() == pytest.approx(0.5)
    assert torch.equal(masked[~hidden], image[~hidden])


def test_patches_that_do_not_divide_the_image():
    masked = RandPatchMask(patch_size=4, mask_ratio=0.5)(torch.ones(1, 7, 9, 5))
    assert masked.shape == (1, 7, 9, 5)
    assert 0 < (masked == 0).float().mean() < 1


def test_dictionary_stores_the_mask_and_keeps_metadata():
    image = MetaTensor(torch.full((1, 8, 8, 8), 5, dtype=torch.int16), affine=torch.eye(4) * 3)
    data = {"image": image, "second": torch.full((1, 8, 8, 8), 2.0)}
    result = RandPatchMaskd(["image", "second"], patch_size=4, mask_ratio=0.75, fill=0.5)(data)
    assert result["mask"].sum() == 6 * 64
    for key in ("image", "second"):
        assert torch.equal(result[key] == 0.5, result["mask"])
    assert isinstance(result["image"], MetaTensor)
    assert torch.equal(result["image"].affine, image.affine)
    assert (data["image"] == 5).all()


def test_without_a_key_no_mask_is_stored():
    assert set(RandPatchMaskd("image", mask_key=None)({"image": torch.ones(1, 32, 32)})) == {"image"}


def test_seeds_decide_and_the_global_stream_does_not():
    image = torch.ones(1, 32, 32)
    masks = []
    for seed, noise in ((1, 0), (1, 5), (2, 0)):
        torch.manual_seed(noise)
        masks.append(RandPatchMaskd("image", patch_size=4).set_random_state(seed)({"image": image})["mask"])
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


def test_bernoulli_rule():
    transform = RandPatchMask(patch_size=2, rule="bernoulli").set_random_state(0)
    counts = {int((transform(torch.ones(1, 16, 16)) == 0).sum()) for _ in range(10)}
    assert len(counts) > 3


def test_bad_arguments_are_refused_at_once():
    with pytest.raises(ValueError, match="patch_size: got 0"):
        RandPatchMask(patch_size=0)
    with pytest.raises(ValueError, match="mask_ratio: got 1"):
        RandPatchMaskd("image", mask_ratio=1.0)
    with pytest.raises(ValueError, match="rule: got"):
        RandPatchMask(rule="exact")

"""Intensity mask as a transform: one mask for all channels and keys, seeded by MONAI's random state."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor

from common.masking.intensity import luminosity
from common.transforms.intensity_mask import RandIntensityMask, RandIntensityMaskd


@pytest.mark.parametrize("shape", [(1, 9, 8), (3, 9, 8), (3, 6, 5, 7)])
def test_hidden_voxels_are_filled_in_all_channels_and_whole_bins(shape):
    image = torch.rand(shape) * 0.98 + 0.01
    transform = RandIntensityMask(n_bins=8, mask_ratio=0.5, fill=-1.0).set_random_state(0)
    masked = transform(image)
    hidden = masked == -1
    assert torch.equal(hidden, hidden[:1].expand(shape))
    assert torch.equal(masked[~hidden], image[~hidden])
    bins = (luminosity(image[None])[0, 0] * 8).long()
    hidden_bins = {int(b) for b in bins[hidden[0]]}
    assert len(hidden_bins) in (3, 4)  # one of the four may hold no voxel
    assert not hidden_bins & {int(b) for b in bins[~hidden[0]]}


def test_dictionary_hides_the_same_voxels_of_all_keys_and_stores_them():
    image = MetaTensor(torch.rand(1, 6, 6, 6), affine=torch.eye(4) * 2)
    other = torch.ones(2, 6, 6, 6)
    transform = RandIntensityMaskd(["image", "other"], n_bins=4, mask_ratio=0.5, mask_key="hidden").set_random_state(3)
    result = transform({"image": image, "other": other, "case": "a"})
    assert result["hidden"].dtype == torch.bool
    assert result["hidden"].shape == (1, 6, 6, 6)
    assert 0 < result["hidden"].float().mean() < 1
    assert torch.equal(result["other"] == 0, result["hidden"].expand(2, -1, -1, -1))
    assert (result["image"][result["hidden"]] == 0).all()
    assert isinstance(result["image"], MetaTensor)
    assert torch.equal(result["image"].affine, image.affine)


def test_seeds_decide():
    image = torch.rand(1, 8, 8)
    first, again, other = (
        RandIntensityMaskd("image", n_bins=64, mask_ratio=0.5).set_random_state(seed)({"image": image})["mask"]
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_array_transform_can_repeat_its_mask():
    transform = RandIntensityMask(n_bins=64, mask_ratio=0.5).set_random_state(0)
    image = torch.rand(1, 8, 8)
    first = transform(image)
    assert torch.equal(transform(image, randomize=False), first)
    assert not torch.equal(transform(image), first)


def test_probability():
    image = torch.rand(1, 4, 4)
    never = RandIntensityMaskd("image", n_bins=2, mask_ratio=0.5, prob=0.0)({"image": image})
    assert torch.equal(never["image"], image)
    assert not never["mask"].any()
    sometimes = RandIntensityMaskd("image", n_bins=2, mask_ratio=0.5, prob=0.5).set_random_state(0)
    share = sum(bool(sometimes({"image": image})["mask"].any()) for _ in range(100)) / 100
    assert 0.3 < share < 0.7


def test_quantile_bins_hide_their_share_of_voxels():
    image = torch.rand(1, 10, 10) ** 5
    mask = RandIntensityMaskd("image", n_bins=4, mask_ratio=0.25, binning="quantile")({"image": image})["mask"]
    assert mask.sum() == 25


def test_half_precision_stays():
    image = torch.rand(1, 4, 4).half()
    assert RandIntensityMask()(image).dtype == torch.float16


def test_bad_arguments_are_refused_at_once():
    with pytest.raises(ValueError, match="hides all 16 bins"):
        RandIntensityMask(mask_ratio=1.0)
    with pytest.raises(ValueError, match="n_bins: got 1"):
        RandIntensityMaskd("image", n_bins=1)
    with pytest.raises(ValueError, match="'uniform', 'quantile'"):
        RandIntensityMask(binning="equal")

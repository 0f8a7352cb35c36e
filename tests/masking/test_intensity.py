"""Intensity intervals: which bins are chosen, which voxels they hide (METHODS 1.11)."""

from __future__ import annotations

import logging

import pytest
import torch

from common.masking.intensity import intensity_mask, luminosity
from common.transforms.hu_window import hu_window


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gray_image(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=generator(99))


@pytest.mark.parametrize("shape", [(3, 1, 12, 10), (3, 1, 6, 5, 7)])
@pytest.mark.parametrize(("n_bins", "ratio", "m"), [(16, 0.25, 4), (8, 0.75, 6), (100, 0.29, 29), (5, 0.5, 2)])
def test_exactly_the_chosen_bins_are_hidden(shape, n_bins, ratio, m):
    gray = gray_image(*shape)
    mask, chosen = intensity_mask(gray, n_bins=n_bins, mask_ratio=ratio, generator=generator())
    assert mask.shape == gray.shape
    assert mask.dtype == chosen.dtype == torch.bool
    assert (chosen.sum(1) == m).all()
    bins = (gray.double() * n_bins).floor().long().clamp(max=n_bins - 1)
    for sample in range(shape[0]):
        assert torch.equal(mask[sample], chosen[sample][bins[sample]])


@pytest.mark.parametrize("n_bins", [2, 5, 8, 16, 22, 49, 100])
def test_borders_belong_to_the_bin_above_and_one_to_the_last(n_bins):
    gray = (torch.arange(n_bins + 1) / n_bins).view(1, 1, 1, -1).expand(64, -1, -1, -1)
    mask, chosen = intensity_mask(gray, n_bins=n_bins, mask_ratio=0.5, generator=generator())
    assert torch.equal(mask[:, 0, 0, :n_bins], chosen)
    assert torch.equal(mask[:, 0, 0, n_bins], chosen[:, -1])


def test_just_below_a_border_is_the_bin_below():
    border = torch.tensor(0.5)
    gray = torch.stack([torch.nextafter(border, torch.tensor(0.0)), border]).view(1, 1, 1, 2).expand(32, -1, -1, -1)
    mask, chosen = intensity_mask(gray, n_bins=2, mask_ratio=0.5, generator=generator())
    assert torch.equal(mask[:, 0, 0], chosen)


def test_values_outside_belong_to_the_outer_bins():
    gray = torch.tensor([-0.2, 1.3]).view(1, 1, 1, 2).expand(32, -1, -1, -1)
    mask, chosen = intensity_mask(gray, n_bins=4, mask_ratio=0.5, generator=generator())
    assert torch.equal(mask[:, 0, 0], chosen[:, [0, 3]])


def test_samples_draw_their_own_bins():
    different = 0
    for seed in range(20):
        _, chosen = intensity_mask(gray_image(2, 1, 4, 4), n_bins=16, mask_ratio=0.25, generator=generator(seed))
        different += not torch.equal(chosen[0], chosen[1])
    assert different >= 18  # two equal draws of 4 bins out of 16 are 1 in 1820


def test_the_generator_decides():
    draws = [
        intensity_mask(gray_image(1, 1, 4, 4), n_bins=64, mask_ratio=0.5, generator=generator(s))[1] for s in (1, 1, 2)
    ]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_replacement_hides_fewer_bins_as_the_released_code_does():
    gray = gray_image(4000, 1, 1, 1)
    _, chosen = intensity_mask(gray, n_bins=16, mask_ratio=0.25, replacement=True, generator=generator())
    # METHODS 1.10: 16 (1 - (15/16)^4) = 3.64
    assert abs(chosen.sum(1).float().mean() - 3.64) < 0.05
    assert chosen.sum(1).max() <= 4


def test_quantile_bins_hold_equally_many_eligible_voxels():
    gray = gray_image(2, 1, 8, 8) ** 4
    eligible = torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    eligible[:, :, :, 1:6] = True  # 40 voxels
    mask, chosen = intensity_mask(
        gray, n_bins=5, mask_ratio=0.4, binning="quantile", eligible=eligible, generator=generator()
    )
    assert (chosen.sum(1) == 2).all()
    assert (mask.flatten(1).sum(1) == 16).all()
    assert not mask[~eligible].any()


def test_ineligible_voxels_are_never_hidden():
    gray = gray_image(2, 1, 6, 6, 6)
    eligible = gray_image(1, 1, 6, 6, 6).expand(2, -1, -1, -1, -1) > 0.5
    mask, _ = intensity_mask(gray, n_bins=4, mask_ratio=0.75, eligible=eligible, generator=generator())
    assert mask.any()
    assert not (mask & ~eligible).any()


def test_nothing_eligible_hides_nothing():
    gray = gray_image(1, 1, 4, 4)
    for binning in ("uniform", "quantile"):
        mask, _ = intensity_mask(
            gray, n_bins=4, mask_ratio=0.5, binning=binning, eligible=torch.zeros_like(gray, dtype=torch.bool)
        )
        assert not mask.any()


def test_a_ratio_below_one_bin_hides_nothing_and_says_so_once(caplog):
    gray = gray_image(2, 1, 4, 4)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            mask, chosen = intensity_mask(gray, n_bins=6, mask_ratio=0.151)
    assert not mask.any()
    assert not chosen.any()
    assert len(caplog.records) == 1
    assert "less than one bin" in caplog.text


@pytest.mark.parametrize("ratio", [1.0, 1 - 1e-12])
def test_hiding_every_bin_is_refused(ratio):
    with pytest.raises(ValueError, match="hides all 8 bins"):
        intensity_mask(gray_image(1, 1, 2, 2), n_bins=8, mask_ratio=ratio)


def test_bad_arguments_are_refused():
    gray = gray_image(1, 1, 2, 2)
    with pytest.raises(ValueError, match="n_bins: got 1"):
        intensity_mask(gray, n_bins=1, mask_ratio=0.5)
    with pytest.raises(ValueError, match=r"mask_ratio: got -0\.5"):
        intensity_mask(gray, n_bins=4, mask_ratio=-0.5)
    with pytest.raises(ValueError, match="'uniform', 'quantile'"):
        intensity_mask(gray, n_bins=4, mask_ratio=0.5, binning="log")
    with pytest.raises(ValueError, match="got 3 channels"):
        intensity_mask(gray.expand(-1, 3, -1, -1), n_bins=4, mask_ratio=0.5)


def test_luminosity():
    image = torch.tensor([1.0, 0.5, 0.25]).view(1, 3, 1, 1)
    assert luminosity(image).item() == pytest.approx(0.2989 + 0.5 * 0.587 + 0.25 * 0.114)
    assert torch.equal(luminosity(image[:, :1]), image[:, :1])
    with pytest.raises(ValueError, match="got 2 channels"):
        luminosity(image[:, :2])


def test_bins_in_hu_of_the_chest_channels():
    """METHODS 6.4: with 8 bins of luminosity without edges, lung shares bin 0 with air and bone is bin 7."""
    borders = {-599: 0, -598: 1, -119: 1, -117: 2, -61: 2, -60: 3, -4: 3, -3: 4, 52: 4, 53: 5, 110: 5, 111: 6, 175: 7}
    hu = torch.tensor(list(borders), dtype=torch.float32).view(-1, 1, 1, 1)
    channels = torch.cat([hu_window(hu, -500, 1200), hu_window(hu, 30, 300), torch.zeros_like(hu)], dim=1)
    mask, chosen = intensity_mask(luminosity(channels).clamp(max=1), n_bins=8, mask_ratio=0.5, generator=generator())
    assert torch.equal(mask.flatten(), chosen.gather(1, torch.tensor(list(borders.values()))[:, None]).flatten())

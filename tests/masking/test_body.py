"""The body: above -500 HU, the largest piece, filled."""

from __future__ import annotations

import pytest
import torch

from common.masking.body import body_mask


def chest(depth: int = 6) -> torch.Tensor:
    """A box of tissue with a lung that runs through all slices, and a table beside it."""
    hu = torch.full((1, 1, 20, 20, depth), -1000.0)
    hu[..., 3:15, 3:17, :] = 40.0
    hu[..., 6:11, 6:13, :] = -850.0
    hu[..., 17:19, 2:18, :] = 200.0
    return hu


def test_lungs_belong_to_the_body_and_the_table_does_not():
    expected = torch.zeros(1, 1, 20, 20, 6, dtype=torch.bool)
    expected[..., 3:15, 3:17, :] = True
    assert torch.equal(body_mask(chest()), expected)


def test_2d():
    assert body_mask(chest()[..., 0]).sum() == 12 * 14


def test_samples_are_apart_and_air_is_empty():
    air = torch.full((1, 1, 20, 20, 6), -1000.0)
    mask = body_mask(torch.cat([chest(), air]).to(torch.int16))
    assert mask.dtype == torch.bool
    assert mask[0].any()
    assert not mask[1].any()


def test_the_threshold_is_not_body():
    hu = torch.full((1, 1, 3, 3), -1000.0)
    hu[..., 1, 1] = -500.0
    assert not body_mask(hu).any()
    hu[..., 1, 1] = -499.0
    assert body_mask(hu).sum() == 1


def test_channels_are_refused():
    with pytest.raises(ValueError, match="hu: got shape"):
        body_mask(torch.zeros(1, 3, 4, 4))

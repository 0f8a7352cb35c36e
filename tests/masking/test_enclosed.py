"""Inside of the body, from the image alone."""

from __future__ import annotations

import torch

from common.masking.enclosed import enclosed_by_tissue


def test_lung_is_inside_and_the_air_around_is_not() -> None:
    tissue = torch.zeros(1, 1, 7, 7, dtype=torch.bool)
    tissue[..., 1:6, 1:6] = True
    tissue[..., 2:5, 3] = False  # lung
    expected = torch.zeros_like(tissue)
    expected[..., 1:6, 1:6] = True
    assert torch.equal(enclosed_by_tissue(tissue), expected)


def test_one_axis_is_enough_in_3d() -> None:
    tissue = torch.zeros(2, 1, 3, 4, 5, dtype=torch.bool)
    tissue[0, 0, 1, 2, 0] = tissue[0, 0, 1, 2, 4] = True
    inside = enclosed_by_tissue(tissue)
    assert inside[0, 0, 1, 2].all()
    assert inside.sum() == 5

"""A loss at several resolutions."""

from __future__ import annotations

import pytest
import torch
from monai.losses.ds_loss import DeepSupervisionLoss as MonaiDeepSupervisionLoss

from common.losses.deep_supervision import DeepSupervisionLoss
from common.losses.segmentation import PartialDiceCELoss


def scores(*sizes: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, s, s, s, generator=generator) for s in sizes]


def label(size: int = 8) -> torch.Tensor:
    return torch.randint(3, (2, 1, size, size, size), generator=torch.Generator().manual_seed(1))


def test_equals_monais_up_to_the_sum_of_the_weights():
    several, loss = scores(8, 4, 2), PartialDiceCELoss(n_classes=3)
    monai = MonaiDeepSupervisionLoss(loss, weight_mode="exp")
    expected = monai(several, label().float()) / 1.75
    assert DeepSupervisionLoss(loss)(several, label()).item() == pytest.approx(expected.item(), rel=1e-6)


def test_one_tensor_is_the_plain_loss():
    loss = PartialDiceCELoss(n_classes=3)
    (one,) = scores(8)
    assert DeepSupervisionLoss(loss)(one, label()).item() == loss(one, label()).item()


def test_partial_labels_reach_every_resolution():
    several, loss = scores(8, 4), PartialDiceCELoss(n_classes=3)
    annotated = torch.tensor([[True, True, False], [True, False, True]])
    target = {"label": label(), "annotated": annotated}
    fine = loss(several[0], target)
    coarse = loss(several[1], {"label": label()[..., 1::2, 1::2, 1::2], "annotated": annotated})
    found = DeepSupervisionLoss(loss)(several, target)
    assert found.item() == pytest.approx((fine.item() + 0.5 * coarse.item()) / 1.5, rel=1e-6)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="whole fractions"):
        DeepSupervisionLoss(PartialDiceCELoss(n_classes=3))(scores(8, 3), label())

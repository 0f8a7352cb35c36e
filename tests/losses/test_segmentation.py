"""Dice plus cross entropy over what has been annotated."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from monai.losses.dice import DiceCELoss

from common.losses.segmentation import PartialDiceCELoss
from common.masking.enclosed import CERTAIN_BACKGROUND


def batch(*shape: int, n_classes: int = 4, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = scale * torch.randn(2, n_classes, *shape, generator=generator, dtype=torch.float64)
    return logits.requires_grad_(), torch.randint(n_classes, (2, 1, *shape), generator=generator)


def by_autograd(logits, label, annotated, *, dice_weight=1.0, ce_weight=1.0, batch=False):
    """The definition, written plainly: merge by adding logits' exponentials, one-hot Dice, recorded gradient."""
    own = annotated.clone()
    own[:, 0] = False
    z, y, own = logits.flatten(2).log_softmax(1), label.flatten(1), own[:, :, None]
    background = z.masked_fill(own, -torch.inf).logsumexp(1, keepdim=True)
    background = torch.where(y[:, None] == CERTAIN_BACKGROUND, z[:, :1], background)
    y = y.masked_fill(y == CERTAIN_BACKGROUND, 0)
    log_p = torch.cat([background, z[:, 1:].masked_fill(~own[:, 1:], -torch.inf)], 1)
    y = torch.where(own[:, :, 0].gather(1, y), y, 0)
    p, g = log_p.exp()[:, 1:], F.one_hot(y, z.shape[1]).transpose(1, 2)[:, 1:].to(z.dtype)
    overlap, predicted, volume = (x.sum(2) for x in (p * g, p, g))
    if batch:
        overlap, predicted, volume = (x.sum(0) for x in (overlap, predicted, volume))
    dice = 1 - (2 * overlap + 1e-5) / (predicted + volume + 1e-5)
    present = volume > 0
    dice = (dice * present).sum() / present.sum().clamp(min=1)
    return dice_weight * dice - ce_weight * log_p.gather(1, y[:, None]).mean()


@pytest.mark.parametrize("in_batch", [False, True])
@pytest.mark.parametrize("shape", [(9, 7), (5, 6, 4)])
def test_equals_monai_when_everything_is_annotated(shape, in_batch):
    logits, label = batch(*shape)
    logits = logits.detach().float().requires_grad_()
    monai = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False, batch=in_batch)
    expected = monai(logits, label)
    (gradient,) = torch.autograd.grad(expected, logits)
    loss = PartialDiceCELoss(n_classes=4, batch=in_batch)
    for target in (label, {"label": label}, {"label": label.float(), "annotated": torch.ones(2, 4, dtype=torch.bool)}):
        value = loss(logits, target)
        assert value.item() == pytest.approx(expected.item(), abs=1e-5)
        assert torch.allclose(torch.autograd.grad(value, logits)[0], gradient, atol=1e-7)


def test_value_by_hand():
    """Two voxels, background and one structure, probabilities 0.8 and 0.6 for the right class."""
    logits = torch.log(torch.tensor([[[0.8, 0.4], [0.2, 0.6]]]))[..., None]  # (1, 2, 2, 1)
    label = torch.tensor([0, 1]).view(1, 1, 2, 1)
    ce = -(math.log(0.8) + math.log(0.6)) / 2
    dice = 1 - 2 * 0.6 / (0.2 + 0.6 + 1)
    assert PartialDiceCELoss(n_classes=2)(logits, label).item() == pytest.approx(ce + dice, abs=1e-4)
    assert PartialDiceCELoss(n_classes=2, dice_weight=0)(logits, label).item() == pytest.approx(ce, abs=1e-5)
    assert PartialDiceCELoss(n_classes=2, ce_weight=0)(logits, label).item() == pytest.approx(dice, abs=1e-4)


@pytest.mark.parametrize("in_batch", [False, True])
@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_value_and_gradient_are_those_of_the_definition(scale, in_batch):
    logits, label = batch(4, 3, 5, n_classes=5, scale=scale)
    label[1][label[1] == 4] = 0  # annotated there, but absent
    label[:, :, :2] = label[:, :, :2].masked_fill(label[:, :, :2] == 0, CERTAIN_BACKGROUND)
    assert (label == CERTAIN_BACKGROUND).any()
    assert (label == 0).any()
    annotated = torch.tensor([[True, True, False, True, False], [False, False, True, True, True]])
    kwargs = {"dice_weight": 0.7, "ce_weight": 1.3, "batch": in_batch}
    expected = by_autograd(logits, label, annotated, **kwargs)
    value = PartialDiceCELoss(n_classes=5, **kwargs)(logits, {"label": label, "annotated": annotated})
    assert torch.allclose(value, expected)
    assert torch.allclose(*(torch.autograd.grad(v, logits)[0] for v in (value, expected)), atol=1e-12)


def test_an_unannotated_structure_is_neither_rewarded_nor_punished():
    """Moving probability between it and the background changes nothing."""
    label = torch.tensor([0, 0, 1, 0]).view(1, 1, 2, 2)
    annotated = torch.tensor([[True, True, False]])
    p = torch.tensor([0.5, 0.2, 0.3])
    q = torch.tensor([0.1, 0.2, 0.7])
    values = [
        PartialDiceCELoss(n_classes=3)(
            x.log().view(1, 3, 1, 1).expand(1, 3, 2, 2), {"label": label, "annotated": annotated}
        )
        for x in (p, q)
    ]
    assert values[0].item() == pytest.approx(values[1].item(), abs=1e-6)
    # its voxels, should the label hold some, are background
    with_voxels = PartialDiceCELoss(n_classes=3)(
        p.log().view(1, 3, 1, 1).expand(1, 3, 2, 2), {"label": label.masked_fill(label == 0, 2), "annotated": annotated}
    )
    assert with_voxels.item() == pytest.approx(values[0].item(), abs=1e-6)


def test_certain_background_is_background_whatever_was_annotated():
    """A structure that was not annotated is punished where it cannot be, at the price of any other mistake."""
    logits = torch.tensor([0.5, 0.2, 0.3]).log().view(1, 3, 1, 1).requires_grad_()
    annotated = torch.tensor([[True, True, False]])
    loss = PartialDiceCELoss(n_classes=3, dice_weight=0)
    unknown = loss(logits, {"label": torch.zeros(1, 1, 1, 1), "annotated": annotated})
    assert unknown.item() == pytest.approx(-math.log(0.8), abs=1e-6)
    known = loss(logits, {"label": torch.full((1, 1, 1, 1), CERTAIN_BACKGROUND), "annotated": annotated})
    assert known.item() == pytest.approx(-math.log(0.5), abs=1e-6)
    known.backward()
    assert torch.allclose(logits.grad.flatten(), torch.tensor([-0.5, 0.2, 0.3]), atol=1e-6)


def test_annotations_differ_between_the_samples_of_a_batch():
    logits, label = batch(4, 4, n_classes=3)
    annotated = torch.tensor([[True, True, False], [True, False, True]])
    loss = PartialDiceCELoss(n_classes=3, dice_weight=0)
    both = loss(logits, {"label": label, "annotated": annotated})
    each = [loss(logits[i : i + 1], {"label": label[i : i + 1], "annotated": annotated[i : i + 1]}) for i in (0, 1)]
    assert both.item() == pytest.approx(sum(each).item() / 2)


def test_absent_but_annotated_is_punished_for_false_positives():
    label = torch.zeros(1, 1, 2, 2)
    shy, bold = torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, 2)
    bold[:, 1] = 3
    loss = PartialDiceCELoss(n_classes=2)
    assert loss(bold, label) > loss(shy, label) + 1
    assert PartialDiceCELoss(n_classes=2, ce_weight=0)(bold, label).item() == 0


def test_a_confident_mistake_keeps_its_gradient():
    """The background's probability underflows: the loss is still the difference of the logits."""
    logits = torch.zeros(1, 3, 1, 2)
    logits[:, 1] = 200
    logits.requires_grad_()
    value = PartialDiceCELoss(n_classes=3, dice_weight=0)(logits, torch.zeros(1, 1, 1, 2))
    value.backward()
    assert value.item() == pytest.approx(200)
    assert torch.allclose(logits.grad[0, :, 0, 0], torch.tensor([-0.5, 0.5, 0.0]))


def test_half_precision_is_computed_in_float32_and_channels_last_agrees():
    logits, label = batch(4, 3, 5)
    half = logits.detach().bfloat16().to(memory_format=torch.channels_last_3d).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = PartialDiceCELoss(n_classes=4)(half, label)
    value.backward()
    assert value.dtype == torch.float32
    assert half.grad.dtype == torch.bfloat16
    assert value.item() == pytest.approx(PartialDiceCELoss(n_classes=4)(half.detach().float(), label).item(), abs=1e-6)


def test_bad_arguments_are_refused():
    logits, label = batch(4, 4)
    with pytest.raises(ValueError, match="n_classes: got 1"):
        PartialDiceCELoss(n_classes=1)
    with pytest.raises(ValueError, match="not both 0"):
        PartialDiceCELoss(n_classes=2, dice_weight=0, ce_weight=0)
    with pytest.raises(ValueError, match=r"Give \(B, 3, \*S\)"):
        PartialDiceCELoss(n_classes=3)(logits, label)
    with pytest.raises(ValueError, match="annotated: got shape"):
        PartialDiceCELoss(n_classes=4)(logits, {"label": label, "annotated": torch.ones(2, 3, dtype=torch.bool)})

"""AMLP's attention and consistency terms (METHODS 4.5, 4.11)."""

from __future__ import annotations

import math

import pytest
import torch

from common.losses.consistency import (
    attention_reconstruction_loss,
    category_consistency_loss,
    foreground_logit,
    update_categories,
)

ALL = torch.ones(1, 4, dtype=torch.bool)


def errors(requires_grad: bool = True) -> torch.Tensor:
    return torch.tensor([[0.1, 0.2, 0.3, 0.6]], requires_grad=requires_grad)


def test_attention_is_the_mean_square_over_the_mean():
    losses = errors()
    loss = attention_reconstruction_loss(losses, ALL)
    assert loss.item() == pytest.approx(0.5 / 4 / 0.3)  # 0.416667
    loss.backward()
    torch.testing.assert_close(losses.grad, torch.tensor([[1 / 3, 2 / 3, 1, 2]]) / 4)


def test_attention_as_printed_is_one_and_has_no_gradient():
    losses = errors()
    loss = attention_reconstruction_loss(losses, ALL, literal=True)
    assert loss.item() == pytest.approx(1)
    loss.backward()
    torch.testing.assert_close(losses.grad, torch.zeros(1, 4), atol=1e-7, rtol=0)


@pytest.mark.parametrize("literal", [False, True])
def test_attention_counts_hidden_patches_only_each_sample_by_itself(literal):
    losses = torch.tensor([[0.1, 0.3, 9.0], [7.0, 2.0, 6.0]])
    hidden = torch.tensor([[True, True, False], [False, True, True]])
    one = attention_reconstruction_loss(torch.tensor([[0.1, 0.3]]), ALL[:, :2], literal=literal)
    two = attention_reconstruction_loss(torch.tensor([[2.0, 6.0]]), ALL[:, :2], literal=literal)
    assert attention_reconstruction_loss(losses, hidden, literal=literal) == pytest.approx((one + two).item() / 2)


def test_a_perfect_reconstruction_gives_no_nan():
    losses = torch.zeros(1, 4, requires_grad=True)
    loss = attention_reconstruction_loss(losses, ALL)
    loss.backward()
    assert loss.item() == 0
    assert losses.grad.isfinite().all()


@pytest.mark.parametrize("heads", [False, True])
def test_the_four_cases_of_the_category_update(heads):
    # errors below, below, at (counts as hard) and above their mean of 0.3
    coin = torch.full((1, 4), heads)
    foreground = torch.tensor([[True, False, True, False]])
    new = update_categories(errors(), ALL, foreground, coin)
    assert new.tolist() == [[float(heads), 0.0, 1.0, float(heads)]]
    half = update_categories(errors(), ALL, foreground, coin, disagreement="half")
    assert half.tolist() == [[0.5, 0.0, 1.0, 0.5]]


def test_hard_is_measured_among_the_hidden():
    losses = torch.tensor([[0.1, 0.2, 50.0]])
    hidden = torch.tensor([[True, True, False]])
    foreground = torch.tensor([[False, True, True]])
    assert update_categories(losses, hidden, foreground, ~foreground)[0, :2].tolist() == [0.0, 1.0]


def test_unknown_disagreement_is_refused():
    with pytest.raises(ValueError, match="disagreement"):
        update_categories(errors(), ALL, ALL, ALL, disagreement="vote")


def test_logit_is_that_of_a_softmax_over_squared_distances():
    generator = torch.Generator().manual_seed(0)
    patches = torch.rand(2, 5, 8, generator=generator)
    for n_clusters in (2, 3):
        centroids = torch.rand(2, n_clusters, 8, generator=generator)
        squared = (patches[:, :, None] - centroids[:, None]).square().sum(-1)
        q = (-squared / (0.5 * 8 * 0.25**2)).softmax(-1)[..., 0]
        logit = foreground_logit(patches, centroids, scale=0.25, temperature=0.5)
        torch.testing.assert_close(logit.sigmoid(), q)


def test_consistency_trains_the_reconstruction_and_not_the_centroids():
    patches = torch.full((1, 4, 8), 0.5, requires_grad=True)
    centroids = torch.stack([torch.ones(8), torch.zeros(8)])[None].requires_grad_()
    foreground = torch.tensor([[True, False, True, False]])
    logit = foreground_logit(patches, centroids)
    torch.testing.assert_close(logit, torch.zeros(1, 4))
    loss = category_consistency_loss(logit, foreground, foreground.float(), ALL)
    assert loss.item() == pytest.approx(math.log(2))
    loss.backward()
    assert centroids.grad is None
    # brighter where the category is the bright foreground, darker where it is not
    assert (patches.grad[0, [0, 2]] < 0).all()
    assert (patches.grad[0, [1, 3]] > 0).all()


def test_consistency_as_printed_is_a_constant_per_differing_patch():
    logit = torch.randn(1, 4, requires_grad=True)
    foreground = torch.tensor([[True, False, True, False]])
    category = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    for n, cut in ((4, 2), (3, 1)):  # the last one hides only the first three
        hidden = torch.arange(4)[None] < n
        loss = category_consistency_loss(logit, foreground, category, hidden, literal=True)
        assert loss.item() == pytest.approx(23.02585 * cut / n, rel=1e-5)
    assert category_consistency_loss(logit, foreground, foreground.float(), ALL, literal=True).item() == 0
    loss.backward()
    assert not logit.grad.any()


def test_visible_patches_do_not_count():
    logit = torch.tensor([[0.0, 0.0, 30.0, 30.0]])
    hidden = torch.tensor([[True, True, False, False]])
    loss = category_consistency_loss(logit, ~ALL, torch.zeros(1, 4), hidden)
    assert loss.item() == pytest.approx(math.log(2))

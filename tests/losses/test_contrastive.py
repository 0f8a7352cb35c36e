"""Contrastive losses: closed forms (METHODS 1.11, 2.11), the single pair, the queue, several ranks."""

from __future__ import annotations

import logging
import math

import pytest
import torch
import torch.nn.functional as F

from common.losses.contrastive import (
    SymmetricContrastiveLoss,
    clip_loss,
    cosine_loss,
    embedding_spread,
    gather_embeddings,
    ntxent,
)

S = 2.6593


def views(n: int = 4, e: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(n)
    a, b = (torch.randn(n, e, generator=generator, requires_grad=True) for _ in range(2))
    return a, b


class TestClipLoss:
    @pytest.mark.parametrize("n", [2, 4])
    def test_orthonormal_pairs(self, n):
        e = torch.eye(n, 8)
        expected = math.log(1 + (n - 1) * math.exp(-S))
        assert clip_loss(e, e, S).item() == pytest.approx(expected, abs=1e-6)
        assert expected == pytest.approx({2: 0.0676, 4: 0.19062}[n], abs=1e-4)

    def test_the_floor_of_the_constant_scale(self):
        """Simplex corners are as far apart as can be: ln(1 + (N - 1) exp(-s N / (N - 1)))."""
        n = 4
        simplex = torch.eye(n) - 1 / n
        expected = math.log(1 + (n - 1) * math.exp(-S * n / (n - 1)))
        assert clip_loss(simplex, simplex, S).item() == pytest.approx(expected, abs=1e-6)
        assert expected == pytest.approx(0.083, abs=1e-3)

    def test_swapping_changes_nothing_and_length_does_not_count(self):
        a, b = views()
        assert clip_loss(a, b, S).item() == pytest.approx(clip_loss(b, a, S).item(), abs=1e-6)
        assert clip_loss(3 * a, b / 7, S).item() == pytest.approx(clip_loss(a, b, S).item(), abs=1e-6)

    def test_one_way_is_cross_entropy_of_the_rows(self):
        a, b = (F.normalize(x.detach(), dim=1) for x in views(3))
        expected = F.cross_entropy(S * a @ b.t(), torch.arange(3))
        assert clip_loss(a, b, S, symmetric=False).item() == pytest.approx(expected.item())
        assert clip_loss(a, b, S, symmetric=False).item() != pytest.approx(clip_loss(b, a, S, symmetric=False).item())

    def test_single_pair_is_zero(self):
        a, b = views(1)
        assert clip_loss(a, b, S).item() == 0

    def test_negatives_join_the_other_side(self):
        a, b = (F.normalize(x.detach(), dim=1) for x in views(2))
        more_a, more_b = (F.normalize(x.detach(), dim=1) for x in views(3))
        rows = torch.cat([a @ b.t(), a @ more_b.t()], dim=1) * S
        columns = torch.cat([b @ a.t(), b @ more_a.t()], dim=1) * S
        expected = (F.cross_entropy(rows, torch.arange(2)) + F.cross_entropy(columns, torch.arange(2))) / 2
        assert clip_loss(a, b, S, negatives_a=more_a, negatives_b=more_b).item() == pytest.approx(expected.item())

    def test_float32_under_autocast_and_zero_vectors(self):
        a, b = (x.detach().bfloat16() for x in views())
        a[0] = 0
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = clip_loss(a, b, S)
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(clip_loss(a.float(), b.float(), S).item())


class TestNTXent:
    def test_two_orthonormal_pairs(self):
        e, g = torch.eye(2), 0.5
        expected = -math.log(math.exp(1 / g) / (math.exp(1 / g) + 2))
        assert ntxent(e, e, g).item() == pytest.approx(expected, abs=1e-6)

    def test_the_written_out_sum(self):
        a, b = (F.normalize(x.detach(), dim=1) for x in views(3))
        g, total = 0.3, 0.0
        for m, o in ((a, b), (b, a)):
            for i in range(3):
                positive = math.exp(float(m[i] @ o[i]) / g)
                others = [math.exp(float(m[i] @ x[j]) / g) for x in (m, o) for j in range(3) if j != i]
                total += -math.log(positive / (positive + sum(others)))
        assert ntxent(a, b, g).item() == pytest.approx(total / 6, rel=1e-5)

    def test_temperature_can_be_learnt(self):
        a, b = views()
        temperature = torch.tensor(0.2, requires_grad=True)
        ntxent(a, b, temperature).backward()
        assert temperature.grad.abs() > 0


def test_cosine_loss():
    a = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    b = torch.tensor([[3.0, 0.0], [5.0, 0.0], [-1.0, -1.0]])
    assert cosine_loss(a, b).item() == pytest.approx((0 + 1 + 2) / 3)


def test_embedding_spread():
    assert embedding_spread(torch.ones(5, 8)).item() == 0
    spread = embedding_spread(torch.randn(4000, 64, requires_grad=True))
    assert spread.item() == pytest.approx(1 / math.sqrt(64), rel=0.03)
    assert not spread.requires_grad
    # (1, 0) and (0, 1): deviation 1/2 in both dimensions
    assert embedding_spread(torch.tensor([[[2.0, 0.0]], [[0.0, 3.0]]])).item() == pytest.approx(0.5)


class TestSymmetricContrastiveLoss:
    def test_is_the_clip_loss_with_the_paper_s_scale(self):
        a, b = views()
        assert SymmetricContrastiveLoss()(a, b).item() == pytest.approx(clip_loss(a, b, S).item())
        assert list(SymmetricContrastiveLoss().parameters()) == []

    def test_learnable_scale_starts_there_and_stops_at_100(self):
        a, b = views()
        loss = SymmetricContrastiveLoss(learnable=True)
        value = loss(a, b)
        value.backward()
        assert value.item() == pytest.approx(clip_loss(a, b, S).item(), abs=1e-6)
        assert loss.log_scale.grad.abs() > 0
        with torch.no_grad():
            loss.log_scale.fill_(10.0)
        assert loss.scale.item() == pytest.approx(100, rel=1e-5)

    def test_single_pair_is_skipped_with_its_graph_and_logged_once(self, caplog):
        a, b = views(1)
        loss = SymmetricContrastiveLoss()
        with caplog.at_level(logging.WARNING):
            for _ in range(3):
                value = loss(a, b)
        value.backward()
        assert value.item() == 0
        assert torch.equal(a.grad, torch.zeros_like(a))
        assert len(caplog.records) == 1
        assert "queue_size" in caplog.text

    def test_single_pair_can_be_an_error(self):
        with pytest.raises(ValueError, match="single pair has no negatives"):
            SymmetricContrastiveLoss(single_pair="raise")(*views(1))

    def test_queue_gives_a_single_pair_negatives(self):
        loss = SymmetricContrastiveLoss(queue_size=3, embedding_features=6, single_pair="raise")
        steps = [tuple(x[i : i + 1] for x in views(5)) for i in range(5)]
        seen: list[tuple[torch.Tensor, torch.Tensor]] = []
        for a, b in steps:
            last = seen[-3:]
            expected = clip_loss(
                a,
                b,
                S,
                negatives_a=torch.cat([x for x, _ in last]) if last else None,
                negatives_b=torch.cat([x for _, x in last]) if last else None,
            )
            value = loss(a, b)
            assert value.item() == pytest.approx(expected.item(), abs=1e-6)
            seen.append((a.detach(), b.detach()))
        assert value > 0
        assert value.requires_grad

    def test_queue_wraps_around_and_takes_the_newest_of_a_large_batch(self):
        loss = SymmetricContrastiveLoss(queue_size=4, embedding_features=6)
        a, b = views(3)
        loss(a, b)
        loss(a, b)
        assert torch.equal(loss.queue.embeddings[0], a.detach()[[1, 2, 2, 0]])
        assert loss.queue.filled.all()
        a, b = views(7)
        loss(a, b).backward()
        assert sorted(loss.queue.embeddings[1].tolist()) == sorted(b.detach()[-4:].tolist())

    def test_evaluation_leaves_the_queue_alone_and_it_is_saved(self):
        loss = SymmetricContrastiveLoss(queue_size=4, embedding_features=6)
        loss(*views(2))
        before = {k: v.clone() for k, v in loss.state_dict().items()}
        loss.eval()(*views(3))
        assert all(torch.equal(before[k], v) for k, v in loss.state_dict().items())
        twin = SymmetricContrastiveLoss(queue_size=4, embedding_features=6)
        twin.load_state_dict(before)
        assert twin(*views(3)).item() == pytest.approx(loss(*views(3)).item())

    def test_bad_arguments_are_refused(self):
        with pytest.raises(ValueError, match="logit_scale: got 0"):
            SymmetricContrastiveLoss(logit_scale=0)
        with pytest.raises(ValueError, match="queue_size"):
            SymmetricContrastiveLoss(queue_size=-1)
        with pytest.raises(ValueError, match="'skip' and 'raise'"):
            SymmetricContrastiveLoss(single_pair="zero")


def test_mean_gradient_of_the_ranks_is_that_of_the_whole_batch(monkeypatch):
    """Two ranks, played one after the other: each differentiates by its own half, DDP takes the mean."""
    a, b = views(4)
    clip_loss(a, b, S).backward()

    def play(rank: int) -> tuple[torch.Tensor, torch.Tensor, float]:
        own_a, own_b = (x.detach()[2 * rank : 2 * rank + 2].requires_grad_() for x in (a, b))
        sent = iter((a, b))

        def all_gather(parts: list[torch.Tensor], own: torch.Tensor) -> None:
            for part, value in zip(parts, next(sent).detach().split(2), strict=True):
                part.copy_(value)
            assert torch.equal(parts[rank], own)

        monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
        monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
        monkeypatch.setattr("torch.distributed.get_rank", lambda: rank)
        monkeypatch.setattr("torch.distributed.all_gather", all_gather)
        value = SymmetricContrastiveLoss()(own_a, own_b)
        value.backward()
        return own_a.grad, own_b.grad, value.item()

    ranks = [play(0), play(1)]
    for whole, which in ((a, 0), (b, 1)):
        # a parameter's gradient is a sum over samples; the mean over ranks halves what each rank adds
        assert torch.allclose(torch.cat([r[which] for r in ranks]) / 2, whole.grad, atol=1e-6)
    assert ranks[0][2] == pytest.approx(ranks[1][2])


def test_one_process_gathers_nothing():
    a, _ = views()
    assert gather_embeddings(a) is a

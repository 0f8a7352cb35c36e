"""MoCo's loss by hand, and the ring that holds its negatives."""

from __future__ import annotations

import math

import pytest
import torch

from common.losses.embedding_queue import EmbeddingQueue
from common.losses.queue_contrast import QueueContrast, info_nce


def axis(*indices: int) -> torch.Tensor:
    """Unit vectors (N, 4)."""
    return torch.eye(4)[list(indices)]


def test_one_positive_against_two_negatives_by_hand() -> None:
    """Cosines 0.6 to the key, 0.8 and 0 to the queue; lengths do not matter."""
    query = torch.tensor([[6.0, 8.0, 0.0, 0.0]])
    value = info_nce(query, 3 * axis(0), 5 * axis(1, 2), 0.2)
    positive, negatives = math.exp(3), math.exp(4) + 1
    assert value.item() == pytest.approx(-math.log(positive / (positive + negatives)), rel=1e-5)
    only_first = info_nce(query, axis(0), axis(1, 2), 0.2, filled=torch.tensor([True, False]))
    assert only_first.item() == pytest.approx(-math.log(positive / (positive + math.exp(4))), rel=1e-5)


def test_other_keys_of_the_batch_do_not_count() -> None:
    alone = info_nce(axis(0), axis(0), axis(3), 0.2)
    assert info_nce(axis(0, 1), axis(0, 1), axis(3), 0.2).item() == pytest.approx(alone.item())


def test_keys_of_earlier_batches_are_the_negatives_oldest_first_out() -> None:
    contrast = QueueContrast(temperature=1.0, queue_size=2, embedding_features=4)
    query = axis(0).requires_grad_()
    first = contrast(query, axis(1))
    first.backward()
    assert first == 0  # no negatives yet, and a gradient nevertheless
    assert torch.equal(query.grad, torch.zeros(1, 4))
    expected = [math.log(1 + 1), math.log(1 + 2), math.log(1 + 2)]  # positive and negatives all have cosine 0
    assert [contrast(axis(0), axis(key)).item() for key in (2, 3, 1)] == pytest.approx(expected)
    assert sorted(contrast.queue.embeddings[0].tolist()) == sorted(axis(3, 1).tolist())


def test_keys_get_no_gradient_and_evaluation_leaves_the_queue_alone() -> None:
    contrast = QueueContrast(queue_size=2, embedding_features=4)
    contrast(axis(0), axis(1))
    query, key = axis(0).requires_grad_(), axis(2).requires_grad_()
    contrast.eval()(query, key).backward()
    assert key.grad is None
    assert query.grad.abs().sum() > 0
    assert contrast.queue.filled.tolist() == [True, False]


def test_half_precision_ends_before_the_loss() -> None:
    contrast = QueueContrast(queue_size=2, embedding_features=4)
    with torch.autocast("cpu", torch.bfloat16):
        assert contrast(axis(0).bfloat16(), axis(1).bfloat16()).dtype == torch.float32


def test_keys_of_all_processes_join_the_queue_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    def all_gather(parts: list[torch.Tensor], own: torch.Tensor) -> None:
        assert torch.equal(own, axis(2))
        parts[0].copy_(axis(1))
        parts[1].copy_(own)

    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 1)
    monkeypatch.setattr("torch.distributed.all_gather", all_gather)
    contrast = QueueContrast(queue_size=3, embedding_features=4)
    contrast(axis(0), axis(2))
    assert torch.equal(contrast.queue.embeddings[0, :2], axis(1, 2))
    assert contrast.queue.filled.tolist() == [True, True, False]


def test_the_ring_keeps_the_newest_of_each_view_and_is_saved() -> None:
    ring = EmbeddingQueue(size=3, features=1, views=2)
    for start in (1, 3):
        numbers = torch.arange(start, start + 2.0)[None, :, None]
        ring.write(torch.cat([numbers, -numbers]))
    assert ring.embeddings[0].flatten().tolist() == [4, 2, 3]
    assert ring.embeddings[1].flatten().tolist() == [-4, -2, -3]
    twin = EmbeddingQueue(size=3, features=1, views=2)
    twin.load_state_dict(ring.state_dict())
    for one in (ring, twin):
        one.write(torch.full((2, 1, 1), 9.0))
    assert torch.equal(twin.embeddings, ring.embeddings)
    assert twin.embeddings[0].flatten().tolist() == [4, 9, 3]
    ring.write(torch.arange(5.0).expand(2, 5)[..., None])
    assert sorted(ring.embeddings[0].flatten().tolist()) == [2, 3, 4]


@pytest.mark.parametrize(
    ("arguments", "message"), [({"temperature": 0.0}, "above 0"), ({"queue_size": 0}, "holds all negatives")]
)
def test_arguments_are_checked(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QueueContrast(**arguments)
    with pytest.raises(ValueError, match="at least 1 of each"):
        EmbeddingQueue(size=0, features=1)

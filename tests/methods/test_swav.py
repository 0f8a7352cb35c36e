"""SwAV: the codes, the queue that shares them, the head, and the loss by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from common.losses.contrastive import own_rows
from common.losses.prototypes import sinkhorn
from common.methods.swav import SwAV, SwAVLoss
from common.networks.batch_norm import BatchNorm
from tests.methods.prototype_methods import E, image, method, network


def test_the_loss_by_hand() -> None:
    """Codes of the large views, predicted from every other view."""
    outputs = method("swav")(image())
    scores = outputs["scores"].detach()
    codes = [sinkhorn(scores[v]) for v in (0, 1)]
    logarithms = (scores / 0.1).log_softmax(-1)
    pairs = [-(codes[t] * logarithms[v]).sum(-1).mean() for t in (0, 1) for v in range(5) if v != t]
    value = SwAVLoss(queue_size=0, embedding_features=E)(outputs)
    assert value.item() == pytest.approx(torch.stack(pairs).mean().item(), rel=1e-5)
    assert outputs["losses"]["prediction"] == value


def test_a_full_queue_shares_the_codes_of_each_view() -> None:
    siamese, loss = method("swav"), SwAVLoss(queue_size=4, embedding_features=E)
    seen = []
    for step in range(3):
        outputs = siamese(image())
        e = F.normalize(outputs["embeddings"].detach(), dim=-1)
        seen.append(e)
        codes = loss.eval().codes(e, outputs["prototypes"])
        for v in (0, 1):
            earlier = [past[v] for past in seen[-3:-1]] if step == 2 else []  # full after two batches of two
            scores = torch.cat([*earlier, e[v]]) @ outputs["prototypes"].t()
            torch.testing.assert_close(codes[v], sinkhorn(scores)[-2:])
        loss.train()(outputs)
    state = loss.state_dict()
    assert torch.equal(state["queue.embeddings"][:, 2:], seen[1]) or torch.equal(state["queue.embeddings"][:, :2], e)


def test_a_rank_takes_its_own_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert own_rows(3) == slice(0, 3)
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 2)
    assert own_rows(3) == slice(6, 9)


def test_the_head_of_the_paper() -> None:
    swav = SwAV(network())
    kinds = [type(layer) for layer in swav.projector.projection.hidden]
    assert kinds == [nn.Linear, BatchNorm, nn.ReLU]
    widths = [tuple(p.shape) for p in swav.projector.parameters() if p.ndim == 2]
    assert widths == [(2048, swav.network.encoder.channels[-1]), (128, 2048), (512, 128)]
    assert swav.local_views == 6
    assert SwAVLoss().temperature == 0.1

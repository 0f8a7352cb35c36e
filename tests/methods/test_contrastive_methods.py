"""SimCLR, MoCo v2 and BYOL: who sees which view, who learns, and their losses by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from common.methods.baselines import baseline_loss, baseline_method
from common.methods.byol import BYOL, BYOLLoss
from common.methods.moco import MoCo, MoCoLoss
from common.methods.simclr import SimCLR, SimCLRLoss
from common.networks.batch_norm import BatchNorm
from common.networks.mit_unet import MixTransformerUNet

METHODS = {"simclr": SimCLR, "moco": MoCo, "byol": BYOL}
UNUSED = {"patch_size": 16, "mask_ratio": 0.0}  # of the methods that mask


def network(spatial_dims: int = 2) -> MixTransformerUNet:
    torch.manual_seed(0)
    return MixTransformerUNet(
        spatial_dims=spatial_dims,
        out_channels=3,
        variant="b0",
        stem_stride=2,
        decoder_channels=(8, 8, 4, 4),
        drop_path_rate=0.0,
    )


def method(name: str, spatial_dims: int = 2, **changes: Any) -> Any:
    return METHODS[name](network(spatial_dims), **{"embedding_features": 8, "hidden_features": 16, **changes})


def image(*shape: int) -> torch.Tensor:
    return torch.rand(shape or (2, 3, 16, 32), generator=torch.Generator().manual_seed(1))


def changed(module: nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}


def copied(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(("dims", "shape"), [(2, (2, 3, 16, 32)), (3, (2, 3, 16, 32, 16))])
def test_two_views_are_embedded(name: str, dims: int, shape: tuple[int, ...]) -> None:
    outputs = method(name, dims)(image(*shape))
    assert outputs["views"].shape == (2, *shape)
    assert not torch.allclose(*outputs["views"])
    assert torch.equal(outputs["image"], image(*shape).expand(2, *shape))
    assert outputs["embeddings"].shape == (2, 2, 8)
    assert outputs["embeddings"].dtype == torch.float32
    assert outputs["stats"]["embedding_spread"] > 0
    assert "reconstruction" not in outputs


@pytest.mark.parametrize("name", METHODS)
def test_views_follow_their_own_seed(name: str) -> None:
    siamese = method(name).eval()
    siamese.seed_masks(5)
    first, second = (siamese(image()) for _ in range(2))
    siamese.seed_masks(5)
    again = siamese(image())
    assert torch.equal(again["views"], first["views"])
    assert torch.equal(again["embeddings"], first["embeddings"])
    assert not torch.equal(second["views"], first["views"])


@pytest.mark.parametrize("name", METHODS)
def test_encoder_and_heads_learn_and_the_decoder_stays(name: str) -> None:
    """In one step; every parameter that can learn gets a gradient, or several processes would wait for it."""
    siamese, loss = method(name), baseline_loss(name=name, queue_size=4)
    if name == "moco":
        loss = MoCoLoss(queue_size=4, embedding_features=8)
        loss(siamese(image()))  # the first step has no negatives
    siamese.zero_grad()
    loss(siamese(image())).backward()
    learning = {n: p for n, p in siamese.named_parameters() if p.requires_grad}
    assert {".".join(n.split(".")[:2]) for n in learning if n.startswith("network")} == {"network.encoder"}
    heads = {"projector", "predictor"} if name == "byol" else {"projector"}
    assert {n.split(".")[0] for n in learning} == {"network", *heads}
    assert all(p.grad is not None for p in learning.values())
    assert sum(p.grad.abs().sum() for p in siamese.network.encoder.parameters()) > 0


def test_the_spread_is_that_of_the_cases_and_not_of_the_views() -> None:
    """Two views far apart, in which both cases are alike, have collapsed."""
    siamese = method("simclr")
    alike = torch.eye(2)[:, None].expand(2, 2, 2)
    views = image().expand(2, 2, 3, 16, 32)
    assert siamese.outputs(image(), views, alike)["stats"]["embedding_spread"] == 0
    apart = torch.eye(2).expand(2, 2, 2)  # 0 and 1 in both dimensions: a deviation of a half
    assert siamese.outputs(image(), views, apart)["stats"]["embedding_spread"] == pytest.approx(0.5)


def test_without_a_batch_norm_each_case_is_embedded_by_itself() -> None:
    """No other norm has statistics of the batch."""
    siamese = method("simclr", norm="layer", out_norm="layer").eval()
    x = image()
    torch.testing.assert_close(siamese.embed(x)[:1], siamese.embed(x[:1]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", METHODS)
def test_what_all_cases_and_both_views_share_is_no_part_of_an_embedding(name: str) -> None:
    """Maps that are all but the same are embedded far apart, and a shift of them all changes nothing."""
    projector = method(name).projector
    common_part = torch.full((1, projector.hidden[0].in_features, 2, 2), 5.0)
    maps = [common_part + 0.1 * torch.randn(2, *common_part.shape[1:]) for _ in range(2)]
    embeddings = projector(*maps)
    assert embeddings.shape == (4, 8)
    torch.testing.assert_close(projector(*(x + 3 for x in maps)), embeddings, atol=1e-2, rtol=1e-2)
    centred = embeddings - embeddings.mean(0)
    assert centred.norm() > 0.3 * embeddings.norm()


def test_the_loss_of_simclr_is_nt_xent() -> None:
    """Two orthonormal pairs: the partner at cosine 1 among two others at cosine 0."""
    outputs = {"embeddings": torch.eye(2).expand(2, 2, 2)}
    value = SimCLRLoss(temperature=0.5)(outputs)
    assert value.item() == pytest.approx(-math.log(math.exp(2) / (math.exp(2) + 2)), abs=1e-6)
    assert outputs["losses"]["contrastive"] == value
    assert SimCLRLoss().contrast.temperature.item() == pytest.approx(0.1)
    assert list(SimCLRLoss().parameters()) == []


def test_the_loss_of_byol_is_symmetric_and_crosses_the_views() -> None:
    """Prediction 1 at 60 degrees to the teacher's view 2, prediction 2 opposite to its view 1: 2 - 1 and 2 + 2."""
    half = torch.tensor([0.5, math.sqrt(3) / 2])
    predictions = torch.stack([3 * half, torch.tensor([0.0, -2.0])])[:, None]
    teacher = torch.tensor([[[0.0, 1.0]], [[5.0, 0.0]]])
    outputs = {"predicted_embeddings": predictions, "teacher_embeddings": teacher}
    value = BYOLLoss()(outputs)
    assert value.item() == pytest.approx(1 + 4, abs=1e-5)
    assert outputs["losses"]["prediction"] == value
    unit = (
        predictions / predictions.norm(dim=-1, keepdim=True),
        teacher.flip(0) / teacher.flip(0).norm(dim=-1, keepdim=True),
    )
    assert value.item() == pytest.approx((unit[0] - unit[1]).square().sum().item(), abs=1e-5)  # the paper's form


def test_moco_has_the_query_from_the_network_and_the_key_from_the_teacher() -> None:
    moco = method("moco").eval()
    with torch.no_grad():
        moco.teacher.module.projector.linear.bias += 1
    outputs = moco(image())
    query, key = outputs["embeddings"]
    assert torch.equal(query, moco.embed(outputs["views"][0]))
    torch.testing.assert_close(key, moco.embed(outputs["views"][1]) + 1)
    assert moco.teacher.module.encoder is not moco.network.encoder


def test_byol_predicts_what_the_teacher_makes_of_the_views() -> None:
    byol = method("byol").eval()
    with torch.no_grad():
        byol.teacher.module.projector.linear.bias += 1
    outputs = byol(image())
    embeddings = byol.embed(*outputs["views"])
    torch.testing.assert_close(outputs["embeddings"].flatten(0, 1), embeddings)
    torch.testing.assert_close(outputs["teacher_embeddings"].flatten(0, 1), embeddings + 1)
    torch.testing.assert_close(outputs["predicted_embeddings"].flatten(0, 1), byol.predictor(embeddings))
    assert not outputs["teacher_embeddings"].requires_grad


@pytest.mark.parametrize("name", ["moco", "byol"])
def test_the_teacher_follows_by_its_momentum(name: str) -> None:
    siamese = method(name, momentum=0.75)
    siamese.set_progress(0.0)
    parts = {"encoder": siamese.network.encoder, "projector": siamese.projector}
    with torch.no_grad():
        for part in parts.values():
            for parameter in part.parameters():
                parameter.add_(1)
    before = copied(siamese.teacher.module)
    siamese.update_teacher()
    for name_of, value in siamese.teacher.module.named_parameters():
        torch.testing.assert_close(value, before[name_of] + 0.25)


def test_momenta_of_the_papers() -> None:
    moco, byol = (METHODS[name](network()) for name in ("moco", "byol"))
    assert [moco.teacher.momentum(p) for p in (0.0, 0.5, 1.0)] == pytest.approx([0.999] * 3)
    # half a cosine: at a third of the training, a quarter of the way
    assert [byol.teacher.momentum(p) for p in (0.0, 1 / 3, 0.5, 1.0)] == pytest.approx([0.996, 0.997, 0.998, 1.0])
    byol.set_progress(1.0)
    assert byol(image())["stats"]["teacher_momentum"] == 1
    before = copied(byol.teacher)
    with torch.no_grad():
        byol.projector.linear.bias += 1
    byol.update_teacher()
    assert changed(byol.teacher, before) == set()


@pytest.mark.parametrize("name", ["moco", "byol"])
def test_the_teacher_is_saved_once_and_restored(name: str) -> None:
    siamese, twin = method(name), method(name)
    with torch.no_grad():
        siamese.teacher.module.projector.linear.bias += 1
    state = siamese.state_dict()
    assert {key.split(".")[0] for key in state} <= {"network", "projector", "predictor", "teacher"}
    twin.load_state_dict(state)
    assert changed(twin, state) == set()


def test_heads_of_the_papers() -> None:
    simclr, moco, byol = (METHODS[name](network()) for name in METHODS)
    channels = simclr.network.encoder.channels[-1]
    for siamese, hidden, out, kinds in (
        (simclr, channels, 128, [nn.Linear, BatchNorm, nn.ReLU]),
        (moco, channels, 128, [nn.Linear, BatchNorm, nn.ReLU]),
        (byol, 4096, 256, [nn.Linear, BatchNorm, nn.ReLU]),
    ):
        assert [type(layer) for layer in siamese.projector.hidden] == kinds
        assert siamese.projector.linear.in_features == hidden
        assert siamese.projector.linear.out_features == out
    assert [[type(layer) for layer in siamese.projector.out_norm] for siamese in (simclr, moco, byol)] == [
        [BatchNorm],
        [],
        [],
    ]
    shapes = [tuple(p.shape) for p in byol.predictor.parameters() if p.ndim == 2]
    assert shapes == [(4096, 256), (256, 4096)]


@pytest.mark.parametrize("name", METHODS)
def test_a_few_steps_lower_the_loss(name: str) -> None:
    """Of the same views again and again: the gradient leads downhill."""
    siamese = method(name)
    loss = MoCoLoss(queue_size=4, embedding_features=8) if name == "moco" else baseline_loss(name=name)
    optimizer = torch.optim.AdamW([p for p in siamese.parameters() if p.requires_grad], lr=1e-3)
    x = torch.stack([torch.full((3, 16, 16), 0.2), torch.full((3, 16, 16), 0.8)])
    x[1, :, ::2] = 0.3  # a flat case and a striped one
    losses = []
    for _ in range(8):
        siamese.seed_masks(0)
        optimizer.zero_grad()
        losses.append(loss(siamese(x)))
        losses[-1].backward()
        optimizer.step()
        if hasattr(siamese, "update_teacher"):
            siamese.update_teacher()
    begin = 2 if name == "moco" else 0  # until its queue of two batches is full, there are ever more negatives
    assert losses[-1] < losses[begin]


def test_knobs_reach_the_methods() -> None:
    for name in METHODS:
        assert baseline_method(network(), name=name, **UNUSED, view_share=0.5).view.min_share == 0.5
    for name in ("moco", "byol"):
        assert baseline_method(network(), name=name, **UNUSED, momentum=0.9).teacher.momentum(0.0) == pytest.approx(0.9)
    assert baseline_loss(name="simclr", temperature=0.5).contrast.temperature.item() == pytest.approx(0.5)
    moco = baseline_loss(name="moco", temperature=0.07, queue_size=64)
    assert moco.contrast.temperature == 0.07
    assert moco.contrast.queue.embeddings.shape == (1, 64, 128)
    assert baseline_loss(name="moco").contrast.temperature == 0.2


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="embedding_features"):
        method("simclr", embedding_features=0)
    with pytest.raises(ValueError, match="norm: got 'group'"):
        method("simclr", norm="group")

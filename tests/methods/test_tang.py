"""Tang et al.: turns, cutouts, who learns, and the three terms by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from common.losses.contrastive import ntxent
from common.methods.baselines import baseline_loss
from common.methods.tang import Tang, TangLoss, cutouts, map_decoder, turn
from common.networks.mit_unet import MixTransformerUNet


def method(spatial_dims: int = 2, **changes: Any) -> Tang:
    torch.manual_seed(0)
    size = {"variant": "b0", "stem_stride": 2, "decoder_channels": (8, 8, 4, 4), "drop_path_rate": 0.0}
    network = MixTransformerUNet(spatial_dims=spatial_dims, out_channels=3, **size)
    return Tang(network, **{"embedding_features": 8, **changes})


def image(*shape: int) -> torch.Tensor:
    return torch.rand(shape or (2, 3, 32, 32), generator=torch.Generator().manual_seed(1))


class TestTurn:
    @pytest.mark.parametrize("shape", [(4, 2, 5, 5, 3), (4, 2, 5, 5)])
    def test_turning_on_by_the_rest_of_a_circle_gives_the_image_back(self, shape: tuple[int, ...]) -> None:
        x, quarters = image(*shape), torch.tensor([3, 0, 1, 2])
        turned = turn(x, quarters)
        assert torch.equal(turn(turned, (4 - quarters) % 4), x)
        for b, k in enumerate(quarters.tolist()):
            assert torch.equal(turned[b], torch.rot90(x[b], k, (1, 2)))

    def test_it_is_about_the_body_s_axis(self) -> None:
        x = torch.arange(3.0).expand(1, 1, 4, 4, 3)
        assert torch.equal(turn(x, torch.tensor([1])), x)

    def test_crops_that_are_not_square_are_refused(self) -> None:
        with pytest.raises(ValueError, match="must be square"):
            method()(image(1, 3, 16, 32))


class TestCutouts:
    def test_shares_go_up_to_the_largest(self) -> None:
        shares = cutouts(60, [32, 32, 32], max_share=0.3, generator=torch.Generator().manual_seed(0))
        shares = shares.float().flatten(1).mean(1)
        assert shares.min() < 0.02
        assert 0.2 < shares.max() < 0.31
        assert shares.mean().item() == pytest.approx(0.14, abs=0.02)

    def test_none(self) -> None:
        assert not cutouts(2, [32, 32], max_share=0.0, generator=torch.Generator().manual_seed(0)).any()


class TestMethod:
    @pytest.mark.parametrize(("dims", "shape"), [(2, (2, 3, 32, 32)), (3, (2, 3, 16, 16, 32))])
    def test_two_views_are_restored_told_and_embedded(self, dims: int, shape: tuple[int, ...]) -> None:
        outputs = method(dims)(image(*shape))
        for name in ("reconstruction", "target", "image"):
            assert outputs[name].shape == (2, *shape)
        assert outputs["turn_scores"].shape == (2, 2, 4)
        assert outputs["embeddings"].shape == (2, 2, 8)
        for v in (0, 1):
            assert torch.equal(outputs["target"][v], turn(image(*shape), outputs["quarters"][v]))

    def test_what_is_not_replaced_is_seen(self) -> None:
        tang = method()
        quarters, turned, seen, replaced = tang.draw_view(image(4, 3, 32, 32))
        kept = ~replaced.expand_as(seen)
        assert torch.equal(seen[kept], turned[kept])
        assert not torch.allclose(seen[~kept], turned[~kept])
        assert ((seen >= 0) & (seen <= 1)).all()
        assert quarters.shape == (4,)

    def test_another_image_of_the_batch_is_pasted_and_noise(self) -> None:
        """Image 0 is black, image 1 white: what is neither was noise, and some of the other's value is there."""
        x = torch.stack([torch.zeros(3, 32, 32), torch.ones(3, 32, 32)])
        tang = method()
        pasted, noisy = torch.zeros(2), torch.zeros(2)
        for _ in range(6):
            seen = tang.draw_view(x)[2].flatten(1)
            pasted += (seen == (1 - x).flatten(1)).float().mean(1)
            noisy += ((seen > 0.01) & (seen < 0.99)).float().mean(1)
        assert (pasted > 0.05).all()
        assert (noisy > 0.05).all()

    def test_all_quarters_are_drawn(self) -> None:
        assert set(method().draw_view(image(40, 1, 32, 32).expand(40, 3, 32, 32))[0].tolist()) == {0, 1, 2, 3}

    def test_views_follow_their_own_seed(self) -> None:
        tang = method()
        first, second = (tang.draw_view(image())[2] for _ in range(2))
        tang.seed_masks(0)
        assert torch.equal(tang.draw_view(image())[2], first)
        assert not torch.equal(first, second)

    def test_encoder_and_heads_learn_and_the_decoder_stays(self) -> None:
        tang = method()
        TangLoss()(tang(image())).backward()
        learning = {n: p for n, p in tang.named_parameters() if p.requires_grad}
        parts = {".".join(n.split(".")[:2]) if n.startswith("network") else n.split(".")[0] for n in learning}
        assert parts == {"network.encoder", "decoder", "rotation_head", "projector"}
        assert all(p.grad is not None for p in learning.values())

    def test_the_image_is_made_of_the_deepest_map_alone(self) -> None:
        decoder = map_decoder(3, 32, 3, 16)
        assert decoder(torch.rand(1, 32, 1, 1, 2)).shape == (1, 3, 16, 16, 32)
        widths = [p.shape[0] for p in decoder.parameters() if p.ndim > 1]
        assert widths == [16, 8, 4, 2, 3]

    def test_every_term_teaches_the_encoder(self) -> None:
        tang = method()
        outputs = tang(image())
        weight = next(tang.network.encoder.parameters())
        for term in ("reconstruction", "rotation", "contrastive"):
            weights = {f"{name}_weight": float(name == term) for name in ("reconstruction", "rotation", "contrastive")}
            (gradient,) = torch.autograd.grad(TangLoss(**weights)(outputs), weight, retain_graph=True)
            assert gradient.abs().max() > 0, term

    def test_a_few_steps_lower_the_loss(self) -> None:
        """Of the same views again and again."""
        tang, loss = method(), TangLoss()
        optimizer = torch.optim.AdamW([p for p in tang.parameters() if p.requires_grad], lr=1e-3)
        losses = []
        for _ in range(6):
            tang.seed_masks(0)
            optimizer.zero_grad()
            losses.append(loss(tang(image(2, 3, 16, 16))))
            losses[-1].backward()
            optimizer.step()
        assert losses[-1] < losses[0]


class TestLoss:
    def test_terms_by_hand(self) -> None:
        scores = torch.zeros(2, 2, 4)
        scores[0, 0, 3] = math.log(5)  # 5 of 8
        embeddings = torch.randn(2, 2, 8)
        outputs = {
            "reconstruction": torch.full((2, 2, 1, 4, 4), 0.5),
            "target": torch.full((2, 2, 1, 4, 4), 0.2),
            "turn_scores": scores,
            "quarters": torch.tensor([[3, 0], [1, 2]]),
            "embeddings": embeddings,
        }
        value = TangLoss()(outputs)
        wanted = {
            "reconstruction": 0.3,
            "rotation": (math.log(8 / 5) + 3 * math.log(4)) / 4,
            "contrastive": ntxent(*embeddings, 0.5).item(),
        }
        assert {name: part.item() for name, part in outputs["losses"].items()} == pytest.approx(wanted, rel=1e-5)
        assert value.item() == pytest.approx(sum(wanted.values()), rel=1e-5)
        weighted = TangLoss(reconstruction_weight=2.0, rotation_weight=0.0, contrastive_weight=0.0)(outputs)
        assert weighted.item() == pytest.approx(0.6)

    def test_temperature(self) -> None:
        assert TangLoss().contrast.temperature.item() == pytest.approx(0.5)
        assert baseline_loss(name="tang", temperature=0.1).contrast.temperature.item() == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("refused", "message"),
    [(lambda: method(max_share=0.5), "max_share"), (lambda: TangLoss(rotation_weight=-1), "rotation_weight")],
)
def test_arguments_are_checked(refused: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        refused()

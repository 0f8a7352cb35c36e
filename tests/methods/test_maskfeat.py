"""MaskFeat: what is hidden, what is predicted, which errors count, what is drawn."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from common.losses.hog import draw_gradients, oriented_gradients
from common.methods.maskfeat import MaskFeat, MaskFeatLoss
from common.networks.mit_unet import MixTransformerUNet


def method(spatial_dims: int = 2, **changes: Any) -> MaskFeat:
    torch.manual_seed(0)
    small = {"in_channels": 3, "out_channels": 3, "variant": "b0", "stem_stride": 2, "decoder_channels": (8, 8, 4, 4)}
    return MaskFeat(MixTransformerUNet(spatial_dims=spatial_dims, **small), **changes)


def image(*shape: int) -> torch.Tensor:
    return torch.rand(shape or (2, 3, 32, 48), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("spatial_dims", "shape"), [(2, (2, 3, 32, 48)), (3, (1, 3, 32, 16, 16))])
def test_shapes(spatial_dims: int, shape: tuple[int, ...]) -> None:
    x = image(*shape)
    feat = method(spatial_dims)
    outputs = feat.draw(feat(x))
    cells = [s // 8 for s in shape[2:]]
    assert outputs["predicted_histograms"].shape == outputs["histograms"].shape == (shape[0], 27, *cells)
    assert outputs["cell_mask"].shape == (shape[0], 1, *cells)
    assert torch.equal(outputs["image"][0], x)
    for name in ("image", "target", "reconstruction"):
        assert outputs[name].shape == (1, *shape)


def test_the_target_is_the_whole_image_s_and_hidden_cells_are_those_of_hidden_patches() -> None:
    x = image()
    feat = method(mask_ratio=0.5)
    outputs = feat(x)
    assert "target" not in outputs  # nothing is drawn in a step
    assert torch.equal(outputs["histograms"], oriented_gradients(x, cell_size=8))
    assert torch.equal(feat.draw(outputs)["target"][0], draw_gradients(outputs["histograms"], cell_size=8))
    voxels = outputs["cell_mask"].repeat_interleave(8, 2).repeat_interleave(8, 3)
    assert torch.equal(voxels, outputs["mask"][0])
    assert outputs["stats"]["mask_share"] == 0.5


def test_hidden_voxels_do_not_reach_the_prediction() -> None:
    feat, x = method().eval(), image()
    feat.seed_masks(3)
    first = feat(x)
    feat.seed_masks(3)
    second = feat(torch.where(first["mask"][0], 0.123, x))
    assert torch.equal(first["predicted_histograms"], second["predicted_histograms"])
    assert not torch.equal(first["histograms"], second["histograms"])


def test_loss_by_hand() -> None:
    """Two bins, two cells, the second hidden; errors 1 and 2 in the first cell, 3 and 4 in the second."""
    outputs = {
        "predicted_histograms": torch.tensor([1.0, 3.0, 2.0, 4.0]).view(1, 2, 1, 2),
        "histograms": torch.zeros(1, 2, 1, 2),
        "cell_mask": torch.tensor([False, True]).view(1, 1, 1, 2),
    }
    assert MaskFeatLoss()(outputs) == pytest.approx((9 + 16) / 2)
    assert outputs["losses"]["histograms"] == pytest.approx(12.5)


def test_encoder_token_and_predictor_learn_from_hidden_cells_alone() -> None:
    feat = method()
    outputs = feat(image())
    outputs["predicted_histograms"].retain_grad()
    MaskFeatLoss()(outputs).backward()
    reached = outputs["predicted_histograms"].grad.abs().sum(1, keepdim=True) > 0
    assert torch.equal(reached, outputs["cell_mask"])
    assert all(p.grad is not None for p in feat.parameters() if p.requires_grad)
    assert feat.token.grad.abs().sum() > 0
    assert {n.split(".")[0] for n, p in feat.network.named_parameters() if p.requires_grad} == {"encoder"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"patch_size": 12}, "multiple of the histograms' cells, 8"), ({"cell_size": 6}, "divisor of the network's")],
)
def test_arguments_are_checked(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        method(**changes)

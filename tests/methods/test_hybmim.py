"""HybMIM: the part that is reconstructed, which patches of a region are hidden, and its terms by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from common.losses.contrastive import ntxent
from common.methods.hybmim import HybMIM, HybMIMLoss, last_two_thirds
from common.networks.mit_unet import MixTransformerUNet


def method(spatial_dims: int = 2, drop_path_rate: float = 0.0, **changes: Any) -> HybMIM:
    torch.manual_seed(0)
    size = {"variant": "b0", "stem_stride": 2, "decoder_channels": (8, 8, 4, 4), "drop_path_rate": drop_path_rate}
    network = MixTransformerUNet(spatial_dims=spatial_dims, out_channels=3, **size)
    return HybMIM(network, **{"patch_size": 8, "embedding_features": 8, **changes})


def image(*shape: int) -> torch.Tensor:
    return torch.rand(shape or (2, 3, 48, 32), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("dims", "shape"), [(2, (2, 3, 48, 32)), (3, (1, 3, 16, 32, 16))])
def test_shapes(dims: int, shape: tuple[int, ...]) -> None:
    """48 voxels are three cells, of which two are reconstructed; 16 and 32 voxels are one and two."""
    outputs = method(dims)(image(*shape))
    regions, patches = math.prod(size // 16 for size in shape[2:]), 2**dims
    part = (32, 32) if dims == 2 else shape[2:]
    assert outputs["reconstruction"].shape == outputs["target"].shape == (1, *shape[:2], *part)
    assert outputs["mask"].shape == (1, shape[0], 1, *part)
    assert outputs["place_scores"].shape == outputs["hidden_places"].shape == (shape[0], regions, patches)
    assert outputs["count_scores"].shape == (shape[0], regions, patches + 1)
    assert outputs["embeddings"].shape == (2, shape[0], 8)


def test_the_part_is_cut_out_of_image_and_maps_alike() -> None:
    x = image()
    outputs = method()(x)
    assert torch.equal(outputs["target"][0], x[:, :, 16:])
    cut = last_two_thirds(torch.arange(6.0).view(1, 1, 6, 1).expand(1, 1, 6, 4), (3, 2))
    assert torch.equal(cut, torch.arange(2.0, 6.0).view(1, 1, 4, 1).expand(1, 1, 4, 4))


@pytest.mark.parametrize("shape", [(48, 32), (16, 48, 32)])
def test_places_are_those_of_the_patches_in_their_region(shape: tuple[int, ...]) -> None:
    """Each patch hidden by itself: its region is its place over 16 voxels, its number that within."""
    hybmim = method(len(shape))
    grid = [size // 8 for size in shape]
    for patch in range(0, math.prod(grid), 5):
        place = torch.unravel_index(torch.tensor(patch), grid)
        mask = torch.zeros(1, 1, *shape, dtype=torch.bool)
        mask[(0, 0, *(slice(8 * int(p), 8 * int(p) + 8) for p in place))] = True
        region = number = 0
        for p, n in zip(place, grid, strict=True):
            region, number = region * (n // 2) + int(p) // 2, number * 2 + int(p) % 2
        expected = torch.zeros(1, math.prod(grid) // 2 ** len(shape), 2 ** len(shape), dtype=torch.bool)
        expected[0, region, number] = True
        assert torch.equal(hybmim.hidden_places(mask), expected)


def test_everything_learns_and_the_second_embedding_teaches_the_encoder_nothing() -> None:
    hybmim = method(drop_path_rate=0.2)
    outputs = hybmim(image())
    assert not torch.equal(*outputs["embeddings"])
    encoder = list(hybmim.network.encoder.parameters())
    for v in (0, 1):
        gradients = torch.autograd.grad(outputs["embeddings"][v].sum(), encoder, retain_graph=True)
        assert (max(gradient.abs().max() for gradient in gradients) > 0) == (v == 0)
    HybMIMLoss()(outputs).backward()
    assert all(p.grad is not None for p in hybmim.parameters())


def test_both_embeddings_agree_where_no_path_is_dropped() -> None:
    torch.testing.assert_close(*method().eval()(image())["embeddings"])


def test_terms_by_hand() -> None:
    hidden = torch.tensor([[[True, False], [True, True]]])
    places = torch.tensor([[[2.0, -1.0], [0.5, -3.0]]])  # the second region's second patch is not seen to be hidden
    counts = torch.tensor([[[0.0, 1.0, 2.0], [0.0, 0.0, math.log(2)]]])
    embeddings = torch.randn(2, 3, 8)
    outputs = {
        "reconstruction": torch.tensor([0.5, 0.9]).view(1, 1, 1, 2, 1),
        "target": torch.tensor([0.2, 0.2]).view(1, 1, 1, 2, 1),
        "mask": torch.tensor([True, False]).view(1, 1, 1, 2, 1),
        "hidden_places": hidden,
        "place_scores": places,
        "count_scores": counts,
        "embeddings": embeddings,
    }
    value = HybMIMLoss()(outputs)
    logs = counts.log_softmax(-1)[0]
    probabilities = places.sigmoid()
    wanted = {
        "reconstruction": 0.09,
        "count": -(logs[0, 1] + logs[1, 2]).item() / 2,
        "place": F.binary_cross_entropy(probabilities, hidden.float()).item(),
        "agreement": -(logs[0, 1] + logs[1, 1]).item() / 4,
        "contrastive": ntxent(*embeddings, 0.5).item(),
    }
    assert {name: part.item() for name, part in outputs["losses"].items()} == pytest.approx(wanted, rel=1e-5)
    weights = (1, 0.1, 0.1, 0.01, 0.1)
    assert value.item() == pytest.approx(sum(w * x for w, x in zip(weights, wanted.values(), strict=True)), rel=1e-5)


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (lambda: method(patch_size=12), "a divisor of the network's stride, 16"),
        (lambda: HybMIMLoss(place_weight=-1), "place_weight"),
    ],
)
def test_arguments_are_checked(refused: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        refused()

"""Recomputed activations: less is kept, nothing else changes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from monai.networks.nets import BasicUNet
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from common.activation_checkpointing import blocks_of, checkpoint_blocks
from common.inferers import AutocastInferer
from common.networks.masked_autoencoder import MaskedAutoencoder
from common.networks.mit_unet import MixTransformerUNet
from common.networks.spark import SparK
from common.networks.stunet import STUNet
from common.networks.unetr import UNETR
from common.networks.vit import ViT

WIDTHS = (2, 4, 4, 4, 4, 4)
VIT: dict[str, Any] = {"img_size": (32, 32), "patch_size": 8, "hidden_size": 8, "depth": 3, "n_heads": 2}


def image() -> Tensor:
    return torch.linspace(0, 1, 2 * 32 * 32).view(2, 1, 32, 32)


def reconstructed(network: MaskedAutoencoder) -> list[Tensor | None]:
    places = torch.arange(16).expand(2, 16)
    return list(network(image(), places[:, :4], places[:, 4:]))


MAKERS: dict[str, tuple[Callable[[], nn.Module], Callable[[Any], Any], int]] = {
    # how to make one, how to run it, and how many blocks it has
    "mit_unet": (
        lambda: MixTransformerUNet(
            spatial_dims=2, in_channels=1, out_channels=1, variant="b0", decoder_channels=(4, 4, 4, 4, 4)
        ),
        lambda network: [network(image())],
        4 + 5,
    ),
    "stunet": (lambda: STUNet(spatial_dims=2, out_channels=2, features=WIDTHS), lambda n: n(image()), 6 + 5),
    "spark": (
        lambda: SparK(spatial_dims=2, features=WIDTHS),
        lambda network: [network(image(), torch.tensor([[[True, False], [False, True]]]).expand(2, 2, 2))],
        5 + 4 + 4,
    ),
    "masked_autoencoder": (
        lambda: MaskedAutoencoder(
            ViT(**VIT), decoder_hidden_size=8, decoder_n_heads=2, decoder_depth=2, predictor_depth=1
        ),
        reconstructed,
        1 + 3 + 1 + 2 + 1,
    ),
    "unetr": (lambda: UNETR(out_channels=2, feature_size=2, **VIT), lambda network: [network(image())], 0),
    "basic_unet": (
        lambda: BasicUNet(spatial_dims=2, features=(4, 4, 8, 8, 8, 4)),
        lambda network: [network(image())],
        1 + 4 + 4,
    ),
}


@pytest.mark.parametrize("name", MAKERS)
def test_less_is_kept_and_nothing_changes(name: str) -> None:
    make, run, n_blocks = MAKERS[name]
    torch.manual_seed(0)
    plain = make()
    recomputing = copy.deepcopy(plain)
    checkpoint_blocks(recomputing)
    assert not n_blocks or len(list(blocks_of(recomputing))) == n_blocks
    assert list(recomputing.state_dict()) == list(plain.state_dict())
    kept, results, gradients = [], [], []
    for network in (plain, recomputing):
        sizes: list[int] = []
        torch.manual_seed(1)
        with saved_tensors_hooks(lambda x, sizes=sizes: sizes.append(x.numel()) or x, lambda x: x):
            made = [part for part in run(network) if part is not None]
        torch.stack([part.square().sum() for part in made]).sum().backward()
        kept.append(sum(sizes))
        results.append(made)
        gradients.append([p.grad for p in network.parameters() if p.requires_grad])
    assert kept[1] < 0.6 * kept[0]
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=0)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=0)


class Counted(nn.Sequential):
    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        type(self).calls += 1
        return super().forward(x)


def test_only_training_passes_are_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Counted, "calls", 0)
    network = nn.Sequential(Counted(nn.Linear(1, 1)))
    x = torch.ones(1, 1)
    for _ in range(2):  # the second time changes nothing
        checkpoint_blocks(network)
    network(x).sum().backward()
    assert Counted.calls == 2
    network.eval()(x).sum().backward()
    assert Counted.calls == 3
    with torch.no_grad():
        network.train()(x)
    assert Counted.calls == 4


def test_a_copy_calls_its_own_weights() -> None:
    network = nn.Sequential(nn.Sequential(nn.Linear(1, 1)))
    checkpoint_blocks(network)
    other = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert other(torch.ones(1, 1)).item() == 0 != network(torch.ones(1, 1)).item()


def test_the_knob_reaches_the_network_of_a_method(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Counted, "calls", 0)
    method = nn.Sequential()
    method.network = nn.Sequential(Counted(nn.Linear(1, 1)))
    method.forward = method.network.forward
    AutocastInferer(precision="fp32", checkpointing=True)(torch.ones(1, 1), method).sum().backward()
    assert Counted.calls == 2


def test_batch_norms_are_refused() -> None:
    """A block that runs twice in a step would have them count the batch twice."""
    with pytest.raises(ValueError, match="checkpointing: batch norms"):
        checkpoint_blocks(BasicUNet(spatial_dims=2, features=WIDTHS, norm="batch"))

"""Classes on top of a pretrained encoder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from common.checkpoints import save_pretrained
from common.errors import InputError
from common.networks.classifier import Classifier
from common.networks.mit_unet import MixTransformerUNet
from common.networks.mix_transformer import MixTransformer
from common.transfer import transfer


def classifier(spatial_dims: int = 3, **options: object) -> Classifier:
    encoder = MixTransformer(spatial_dims=spatial_dims, in_channels=1, variant="b0", stem_stride=2)
    return Classifier(encoder, n_classes=2, spatial_dims=spatial_dims, **options).eval()


def test_pretrained_encoder_loads_as_it_is_and_sees_the_same(tmp_path: Path) -> None:
    unet = MixTransformerUNet(
        in_channels=1, out_channels=3, variant="b0", stem_stride=2, decoder_channels=(8, 8, 8, 8)
    ).eval()
    save_pretrained(tmp_path / "ssl.pt", unet, {})
    network = classifier()
    report = transfer(network, tmp_path / "ssl.pt", parts=["encoder"], min_share=1.0)
    assert not report.missing
    assert not report.adapted
    assert set(report.fresh) == {"head.weight", "head.bias"}
    image = torch.rand(2, 1, 16, 32, 16)
    with torch.no_grad():
        expected = unet.encode(image)[-1].mean((2, 3, 4))
        torch.testing.assert_close(network.features(image), expected)
        torch.testing.assert_close(network(image), network.head(expected))


def test_a_2d_encoder_averages_over_the_slices_of_a_volume() -> None:
    network = classifier(2)
    volume = torch.rand(2, 1, 16, 16, 3)
    with torch.no_grad():
        slices = torch.stack([network.features(volume[..., k]) for k in range(3)])
        torch.testing.assert_close(network.features(volume), slices.mean(0))


def test_scores_are_float32_under_autocast() -> None:
    network = classifier(2)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert network(torch.rand(1, 1, 16, 16)).dtype == torch.float32


def test_dropout_is_for_training_only() -> None:
    network = classifier(2, dropout=0.9)
    image = torch.rand(1, 1, 16, 16)
    with torch.no_grad():
        assert torch.equal(network(image), network(image))
        network.dropout.train()
        assert not torch.equal(network(image), network(image))


@pytest.mark.parametrize("shape", [(1, 1, 24, 16, 16), (1, 1, 16, 16)])
def test_sizes_that_do_not_fit_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"multiples of 16.*classify_size"):
        classifier()(torch.zeros(shape))


@pytest.mark.parametrize("change", [{"n_classes": 0}, {"spatial_dims": 1}, {"dropout": 1.0}])
def test_bad_arguments(change: dict) -> None:
    encoder = MixTransformer(spatial_dims=2, in_channels=1, variant="b0")
    with pytest.raises(ValueError, match=next(iter(change))):
        Classifier(encoder, **{"n_classes": 1, **change})

"""Transfer of pretrained weights, and what it reports."""

from __future__ import annotations

import logging
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from common.checkpoints import save_atomic, save_pretrained
from common.errors import InputError
from common.networks.masked_autoencoder import MaskedAutoencoder
from common.networks.unetr import UNETR
from common.networks.vit import ViT
from common.transfer import transfer


class Net(nn.Module):
    """Encoder, decoder and head under the names of the bundles' networks."""

    def __init__(self, in_channels: int = 3, out_channels: int = 3, width: int = 4) -> None:
        super().__init__()
        self.encoder = nn.Sequential(OrderedDict(first=nn.Conv3d(in_channels, width, 3), norm=nn.BatchNorm3d(width)))
        self.decoder = nn.Conv3d(width, 4, 1)
        self.head = nn.Conv3d(4, out_channels, 1)


@pytest.fixture
def pretrained(tmp_path: Path) -> tuple[Net, Path]:
    torch.manual_seed(0)
    network = Net()
    path = tmp_path / "ssl.pt"
    save_pretrained(path, network, {"method": "isd_mae"})
    return network, path


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_encoder_and_decoder_go_in_and_the_head_stays(
    pretrained: tuple[Net, Path], caplog: pytest.LogCaptureFixture
) -> None:
    source, path = pretrained
    target = Net()
    head = target.head.weight.clone()
    with caplog.at_level(logging.INFO):
        report = transfer(target, path)
    assert same(target.encoder, source.encoder)
    assert same(target.decoder, source.decoder)
    assert torch.equal(target.head.weight, head)
    assert report.share == 1.0
    assert len(report.loaded) == 9
    assert report.fresh == ["head.weight", "head.bias"]
    assert report.missing == report.unexpected == report.mismatched == report.adapted == []
    assert "9 tensors loaded, 100.0% of the weights asked for; 2 start fresh (head)." in caplog.text


def test_encoder_alone(pretrained: tuple[Net, Path]) -> None:
    source, path = pretrained
    target = Net()
    transfer(target, path, parts=("encoder",))
    assert same(target.encoder, source.encoder)
    assert not same(target.decoder, source.decoder)


def test_head_goes_in_when_classes_agree(pretrained: tuple[Net, Path]) -> None:
    source, path = pretrained
    target = Net()
    assert transfer(target, path, parts=("encoder", "decoder", "head")).share == 1.0
    assert same(target.head, source.head)


def test_head_of_other_classes_is_left_out_and_not_counted(pretrained: tuple[Net, Path]) -> None:
    _, path = pretrained
    report = transfer(Net(out_channels=14), path, parts=("encoder", "decoder", "head"), min_share=1.0)
    assert report.share == 1.0
    assert report.mismatched == [
        "head.weight (3, 4, 1, 1, 1) instead of (14, 4, 1, 1, 1)",
        "head.bias (3,) instead of (14,)",
    ]


@pytest.mark.parametrize("in_channels", [1, 2, 5])
def test_first_convolution_adapts_to_the_input_channels(pretrained: tuple[Net, Path], in_channels: int) -> None:
    source, path = pretrained
    target = Net(in_channels=in_channels)
    report = transfer(target, path)
    assert report.adapted == ["encoder.first.weight"]
    assert report.share == 1.0
    # by hand: mean over the 3 channels, times 3 / in_channels
    expected = source.encoder.first.weight.sum(1) / in_channels
    for channel in range(in_channels):
        torch.testing.assert_close(target.encoder.first.weight[:, channel], expected)
    # equal channels give the same features
    gray = torch.rand(1, 1, 4, 4, 4)
    torch.testing.assert_close(
        target.encoder.first(gray.repeat(1, in_channels, 1, 1, 1)), source.encoder.first(gray.repeat(1, 3, 1, 1, 1))
    )


def test_a_shortcut_around_the_first_convolution_adapts_too(tmp_path: Path) -> None:
    def block(in_channels: int) -> nn.ModuleDict:
        stage = {
            "conv": nn.Conv2d(in_channels, 2, 3),
            "later": nn.Conv2d(2, 2, 3),
            "shortcut": nn.Conv2d(in_channels, 2, 1),
        }
        return nn.ModuleDict({"stage": nn.ModuleDict(stage)})

    source, target = block(1), block(2)
    save_pretrained(tmp_path / "ssl.pt", source, {})
    report = transfer(target, tmp_path / "ssl.pt", parts=["stage"])
    assert report.adapted == ["stage.conv.weight", "stage.shortcut.weight"]
    shortcut = target["stage"]["shortcut"].weight
    torch.testing.assert_close(shortcut, source["stage"]["shortcut"].weight.repeat(1, 2, 1, 1) / 2)


def test_too_little_fits_and_nothing_changes(pretrained: tuple[Net, Path]) -> None:
    _, path = pretrained
    target = Net(width=8)
    before = target.decoder.bias.clone()
    with pytest.raises(
        InputError, match=r"ssl\.pt: less than the required 90%.*encoder\.first\.weight \(4, 3, 3, 3, 3\)"
    ):
        transfer(target, path)
    assert torch.equal(target.decoder.bias, before)
    assert 0 < transfer(target, path, min_share=0.0).share < 0.1


def test_missing_and_unexpected_names(tmp_path: Path) -> None:
    weights = Net().state_dict()
    weights["encoder.extra"] = weights.pop("encoder.norm.bias")
    save_atomic({"model": weights}, tmp_path / "ssl.pt")
    report = transfer(Net(), tmp_path / "ssl.pt")
    assert report.missing == ["encoder.norm.bias"]
    assert report.unexpected == ["encoder.extra"]
    assert 0.9 < report.share < 1.0


def test_names_of_distributed_training(tmp_path: Path) -> None:
    source, target = Net(), Net()
    save_atomic({"model": {f"module.{k}": v for k, v in source.state_dict().items()}}, tmp_path / "ssl.pt")
    assert transfer(target, tmp_path / "ssl.pt").share == 1.0
    assert same(target.encoder, source.encoder)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"parts": ("encoder", "neck")}, "Choose among decoder, encoder, head"),
        ({"parts": ()}, "Choose among"),
        ({"expected_card": {"method": "amlp"}}, "method: 'amlp' here, 'isd_mae' there"),
    ],
)
def test_refused(pretrained: tuple[Net, Path], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        transfer(Net(), pretrained[1], **arguments)


def test_share_out_of_range(pretrained: tuple[Net, Path]) -> None:
    with pytest.raises(ValueError, match="min_share"):
        transfer(Net(), pretrained[1], min_share=90)


def unetr(size: int) -> UNETR:
    return UNETR(img_size=(size,) * 3, out_channels=2, patch_size=8, feature_size=4, hidden_size=24, depth=3, n_heads=2)


class TestTransformer:
    """What a masked autoencoder learned goes into UNETR."""

    def pretrained(self, tmp_path: Path, img_size: tuple[int, ...] = (32, 32, 32)) -> tuple[ViT, Path]:
        vit = ViT(img_size=img_size, patch_size=8, hidden_size=24, depth=3, n_heads=2)
        for parameter in vit.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        network = MaskedAutoencoder(vit, decoder_hidden_size=12, decoder_n_heads=2, decoder_depth=1)
        save_pretrained(tmp_path / "ssl.pt", network, {"pretraining": {"roi_size": list(img_size)}})
        return vit, tmp_path / "ssl.pt"

    def test_features_of_an_unmasked_image_agree(self, tmp_path: Path) -> None:
        vit, path = self.pretrained(tmp_path)
        network = unetr(32)
        report = transfer(network, path, parts=["vit"], min_share=1.0)
        assert report.share == 1.0
        assert report.missing == report.unexpected == report.mismatched == report.adapted == []
        x = torch.rand(2, 1, 32, 32, 32)
        tokens, states = vit(x)
        found, found_states = network.vit(x)
        assert torch.equal(found, tokens)
        assert all(torch.equal(a, b) for a, b in zip(found_states, states, strict=True))
        assert all(p.requires_grad for p in network.parameters())  # positions too: in UNETR they learn

    def test_positions_are_stretched_to_another_crop(self, tmp_path: Path) -> None:
        vit, path = self.pretrained(tmp_path)
        network = unetr(48)
        report = transfer(network, path, parts=["vit"], min_share=1.0)
        assert report.adapted == ["vit.patch_embedding.position_embeddings"]
        assert "1 adapted to the input" in str(report)
        x = torch.rand(1, 1, 48, 48, 48)
        torch.testing.assert_close(network.vit(x)[0], vit(x)[0])

    @pytest.mark.parametrize("card", [{"roi_size": [32] * 3, "pretraining": None}, {"pretraining": None}])
    def test_a_card_without_pretraining_is_no_fault(self, tmp_path: Path, card: dict) -> None:
        vit, _ = self.pretrained(tmp_path)
        network = unetr(32)
        save_pretrained(tmp_path / "ssl.pt", nn.ModuleDict({"vit": vit}), card)
        assert transfer(network, tmp_path / "ssl.pt", parts=["vit"]).share == 1.0

    def test_positions_of_another_grid_of_as_many_patches_are_stretched_too(self, tmp_path: Path) -> None:
        """4 x 8 x 2 patches are not 4 x 4 x 4."""
        vit, path = self.pretrained(tmp_path, img_size=(32, 64, 16))
        network = unetr(32)
        report = transfer(network, path, parts=["vit"], min_share=1.0)
        assert report.adapted == ["vit.patch_embedding.position_embeddings"]
        x = torch.rand(1, 1, 32, 32, 32)
        torch.testing.assert_close(network.vit(x)[0], vit(x)[0])

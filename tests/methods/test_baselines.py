"""Every baseline by its name: the settings of its own paper, in the bundle too, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser

from common.errors import InputError
from common.methods.baselines import BASELINES, baseline_loss, baseline_method, baseline_setting
from common.networks.mit_unet import MixTransformerUNet
from tests.bundles.discovery import config

BOTH = (["encoder", "decoder"], ["head"])
ENCODER = (["encoder"], ["decoder", "head"])
# patch, share hidden, parts that are transferred and parts that start fresh
OWN = {
    "ae": (16, 0.0, *BOTH),
    "dae": (16, 0.0, *BOTH),
    "mae": (16, 0.75, *BOTH),
    "simmim": (32, 0.6, *ENCODER),
    "maskfeat": (16, 0.4, *ENCODER),
    "cmae": (16, 0.75, *BOTH),
    "simclr": (16, 0.0, *ENCODER),
    "moco": (16, 0.0, *ENCODER),
    "byol": (16, 0.0, *ENCODER),
    "dino": (16, 0.0, *ENCODER),
    "swav": (16, 0.0, *ENCODER),
    "tang": (16, 0.0, *ENCODER),
    "restoration": (16, 0.0, *BOTH),
    "transvw": (16, 0.0, *BOTH),
    "hybmim": (16, 0.4, *BOTH),
}
PATCHES = {"patch_size", "mask_ratio"}
# the settings that change it, all that a run of it records
USED = {
    "ae": set(),
    "dae": {"noise_sd"},
    "mae": PATCHES,
    "simmim": PATCHES,
    "maskfeat": PATCHES,
    "cmae": {*PATCHES, "momentum", "temperature"},
    "simclr": {"view_share", "temperature"},
    "moco": {"view_share", "momentum", "temperature", "queue_size"},
    "byol": {"view_share", "momentum"},
    "dino": {"view_share", "momentum", "temperature", "n_prototypes"},
    "swav": {"view_share", "temperature", "queue_size", "n_prototypes"},
    "tang": {"temperature"},
    "restoration": set(),
    "transvw": set(),
    "hybmim": {*PATCHES, "temperature"},
}
KNOBS = {"noise_sd": 0.1, "view_share": 0.2, "momentum": None, "temperature": None, "queue_size": 1024}
PROTOTYPES = {"dino": 4096, "swav": 512}
SETTINGS = ("patch_size", "mask_ratio", "transfer_parts", "fresh_parts")
MASKING = ("mae", "simmim", "maskfeat", "cmae")


def network(**changes: Any) -> MixTransformerUNet:
    torch.manual_seed(0)
    small = {"variant": "b0", "stem_stride": 2, "decoder_channels": (8, 8, 4, 4)}
    return MixTransformerUNet(**{"spatial_dims": 2, "in_channels": 3, "out_channels": 3, **small, **changes})


@pytest.mark.parametrize("name", OWN)
def test_each_brings_its_own_settings_into_both_stages(name: str) -> None:
    """And the settings that are saved with the weights hold them, not where they came from."""
    assert tuple(baseline_setting(name, setting) for setting in SETTINGS) == OWN[name]
    train, pretrain = (ConfigParser({**config("baselines", c), "baseline": name}) for c in ("train", "pretrain"))
    assert tuple(train.get_parsed_content(setting) for setting in SETTINGS) == OWN[name]
    assert train.get_parsed_content("pretrain_overrides#mask_ratio") == OWN[name][1]
    recorded = pretrain.get_parsed_content("settings#baseline")
    own = {**dict(zip(SETTINGS, OWN[name], strict=True)), "n_prototypes": PROTOTYPES.get(name)}
    assert recorded.items() <= {**KNOBS, **own, "name": name}.items()
    assert set(recorded) == {"name", *USED[name]}


def test_a_setting_that_is_given_wins() -> None:
    given = {"baseline": "simmim", "mask_ratio": 0.3, "patch_size": 8, "transfer_parts": ["encoder", "decoder"]}
    train, pretrain = (ConfigParser({**config("baselines", c), **given}) for c in ("train", "pretrain"))
    assert train.get_parsed_content("pretrain_overrides#mask_ratio") == 0.3
    assert train.get_parsed_content("settings#transfer_parts") == ["encoder", "decoder"]
    recorded = pretrain.get_parsed_content("settings#baseline")
    assert recorded == {"name": "simmim", "patch_size": 8, "mask_ratio": 0.3}


@pytest.mark.parametrize("name", [*MASKING, "hybmim"])
def test_those_that_mask_refuse_to_hide_nothing(name: str) -> None:
    with pytest.raises(ValueError, match="mask_ratio: it is 0, which hides nothing"):
        baseline_method(network(), name=name, patch_size=16, mask_ratio=0)


@pytest.mark.parametrize("name", ["ae", "dae", *MASKING])
def test_those_that_reconstruct_learn_to_see_their_target(name: str) -> None:
    """A few steps on one image lower the loss by a half: its gradient reaches the network."""
    torch.manual_seed(0)
    net = network()
    masks = {"patch_size": 16, "mask_ratio": 0.5}
    method, loss = baseline_method(net, name=name, **masks), baseline_loss(name=name)
    optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
    row = torch.arange(32.0)[:, None].expand(1, 3, 32, 32)
    x = 0.7 + 0.2 * torch.sin(row)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        losses.append(loss(method(x)))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0] / 2


def test_unknown_names_are_refused() -> None:
    allowed = ", ".join(map(repr, BASELINES))
    for refused in (
        lambda: baseline_method(network(), name="jigsaw", patch_size=16, mask_ratio=0.5),
        lambda: baseline_loss(name="jigsaw"),
        lambda: baseline_setting("jigsaw", "mask_ratio"),
    ):
        with pytest.raises(InputError, match=f"'jigsaw'. Allowed are {allowed}"):
            refused()

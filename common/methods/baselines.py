"""Published ways to pretrain that papers compare with, by name, each with the settings of its own paper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from common.errors import InputError
from common.methods.autoencoder import Autoencoder, ReconstructionLoss
from common.methods.byol import BYOL, BYOLLoss
from common.methods.cmae import CMAE, CMAELoss
from common.methods.distortion import RandomView
from common.methods.maskfeat import MaskFeat, MaskFeatLoss
from common.methods.moco import MoCo, MoCoLoss
from common.methods.simclr import SimCLR, SimCLRLoss
from common.methods.simmim import SimMIM
from common.networks.mit_unet import MixTransformerUNet

# what a baseline has that does not say otherwise
_USUAL: dict[str, Any] = {
    "patch_size": 16,
    "mask_ratio": 0.75,
    "transfer_parts": ["encoder", "decoder"],
    "fresh_parts": ["head"],
}
_ENCODER_ALONE: dict[str, Any] = {"transfer_parts": ["encoder"], "fresh_parts": ["decoder", "head"]}
# name -> settings of its paper or released code; docs/baselines.md has the sources
_OWN: dict[str, dict[str, Any]] = {
    "ae": {"mask_ratio": 0.0},
    "dae": {"mask_ratio": 0.0},
    "mae": {},
    "simmim": {"patch_size": 32, "mask_ratio": 0.6, **_ENCODER_ALONE},
    "maskfeat": {"mask_ratio": 0.4, **_ENCODER_ALONE},
    "cmae": {},
    "simclr": {"mask_ratio": 0.0, **_ENCODER_ALONE},
    "moco": {"mask_ratio": 0.0, **_ENCODER_ALONE},
    "byol": {"mask_ratio": 0.0, **_ENCODER_ALONE},
}
_CORRUPTIONS = {"ae": "none", "dae": "noise", "mae": "patches"}
_TWO_VIEWS: dict[str, type[nn.Module]] = {"simclr": SimCLR, "moco": MoCo, "byol": BYOL}
BASELINES = tuple(_OWN)


def baseline_setting(name: str, setting: str) -> Any:
    """A setting of that baseline's own: what a bundle takes that is given no other.

    Args:
        name: one of :data:`BASELINES`.
        setting: ``"patch_size"``, ``"mask_ratio"`` (0 where nothing is masked), ``"transfer_parts"`` or
            ``"fresh_parts"``.

    Raises:
        InputError: for an unknown name.
    """
    return {**_USUAL, **_OWN[_known(name)]}[setting]


def baseline_method(
    network: MixTransformerUNet,
    *,
    name: str,
    patch_size: int | Sequence[int],
    mask_ratio: float,
    noise_sd: float = 0.1,
    view_share: float = 0.2,
    momentum: float | None = None,
    **further: Any,
) -> nn.Module:
    """The method of that name.

    Args:
        network: what is pretrained.
        name: one of :data:`BASELINES`.
        patch_size, mask_ratio: of those that mask, see :func:`baseline_setting`.
        noise_sd: of ``dae``.
        view_share: of ``simclr``, ``moco`` and ``byol``: smallest share of the image that a view shows.
        momentum: of ``cmae``, ``moco`` and ``byol``; ``None`` is the paper's.
        further: arguments of that method alone, such as ``max_shift`` of :class:`common.methods.cmae.CMAE`.

    Raises:
        ValueError: for an unknown name, or what the method refuses.
    """
    settings: dict[str, Any] = {"patch_size": patch_size, "mask_ratio": mask_ratio, **further}
    if _known(name) == "simmim":
        return SimMIM(network, **settings)
    if name == "maskfeat":
        return MaskFeat(network, **settings)
    teacher: dict[str, Any] = {} if momentum is None or name == "simclr" else {"momentum": momentum}
    if name == "cmae":
        return CMAE(network, **settings, **teacher)
    if name in _TWO_VIEWS:
        return _TWO_VIEWS[name](network, view=RandomView(min_share=view_share), **teacher, **further)
    return Autoencoder(network, corruption=_CORRUPTIONS[name], noise_sd=noise_sd, **settings)


def baseline_loss(*, name: str, temperature: float | None = None, queue_size: int = 1024, **further: Any) -> nn.Module:
    """The loss of the method of that name: hidden voxels alone where some are hidden, L1 in SimMIM.

    Args:
        name: one of :data:`BASELINES`.
        temperature: of ``cmae``, ``simclr`` and ``moco``; ``None`` is the paper's.
        queue_size: of ``moco``.
        further: arguments of that loss alone, such as ``contrastive_weight`` of CMAE's.

    Raises:
        ValueError: for an unknown name, or what the loss refuses.
    """
    sharpness: dict[str, Any] = {} if temperature is None else {"temperature": temperature}
    if _known(name) == "maskfeat":
        return MaskFeatLoss(**further)
    if name == "cmae":
        return CMAELoss(**sharpness, **further)
    if name == "simclr":
        return SimCLRLoss(**sharpness, **further)
    if name == "moco":
        return MoCoLoss(queue_size=queue_size, **sharpness, **further)
    if name == "byol":
        return BYOLLoss(**further)
    where = "hidden" if name in ("mae", "simmim") else "all"
    return ReconstructionLoss(**{"kind": "l1" if name == "simmim" else "mse", "where": where, **further})


def _known(name: str) -> str:
    if name not in BASELINES:
        raise InputError(f"baseline: got {name!r}. Allowed are {', '.join(map(repr, BASELINES))}.")
    return name

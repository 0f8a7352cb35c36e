"""Published ways to pretrain that papers compare with, by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from common.methods.autoencoder import Autoencoder, ReconstructionLoss
from common.methods.byol import BYOL, BYOLLoss
from common.methods.distortion import RandomView
from common.methods.moco import MoCo, MoCoLoss
from common.methods.simclr import SimCLR, SimCLRLoss
from common.methods.simmim import SimMIM
from common.networks.mit_unet import MixTransformerUNet

BASELINES = ("ae", "dae", "mae", "simmim", "simclr", "moco", "byol")
_CORRUPTIONS = {"ae": "none", "dae": "noise", "mae": "patches"}
_TEACHERS: dict[str, type[nn.Module]] = {"moco": MoCo, "byol": BYOL}


def baseline_method(
    network: MixTransformerUNet,
    *,
    name: str,
    patch_size: int | Sequence[int] = 16,
    mask_ratio: float = 0.75,
    noise_sd: float = 0.1,
    view_share: float = 0.2,
    momentum: float | None = None,
) -> nn.Module:
    """The method of that name.

    Args:
        network: what is pretrained.
        name: one of :data:`BASELINES`.
        patch_size, mask_ratio: of ``mae`` and ``simmim``.
        noise_sd: of ``dae``.
        view_share: of ``simclr``, ``moco`` and ``byol``: smallest share of the image that a view shows.
        momentum: of ``moco`` and ``byol``; ``None`` is the paper's.

    Raises:
        ValueError: for an unknown name, or what the method refuses.
    """
    if _known(name) == "simmim":
        return SimMIM(network, patch_size=patch_size, mask_ratio=mask_ratio)
    if name == "simclr":
        return SimCLR(network, view=RandomView(min_share=view_share))
    if name in _TEACHERS:
        own: dict[str, Any] = {} if momentum is None else {"momentum": momentum}
        return _TEACHERS[name](network, view=RandomView(min_share=view_share), **own)
    return Autoencoder(
        network, corruption=_CORRUPTIONS[name], noise_sd=noise_sd, patch_size=patch_size, mask_ratio=mask_ratio
    )


def baseline_loss(*, name: str, temperature: float | None = None, queue_size: int = 1024) -> nn.Module:
    """The loss of the method of that name: hidden voxels alone where some are hidden, L1 in SimMIM.

    Args:
        name: one of :data:`BASELINES`.
        temperature: of ``simclr`` and ``moco``; ``None`` is the paper's.
        queue_size: of ``moco``.

    Raises:
        ValueError: for an unknown name, or what the loss refuses.
    """
    own: dict[str, Any] = {} if temperature is None else {"temperature": temperature}
    if name == "simclr":
        return SimCLRLoss(**own)
    if name == "moco":
        return MoCoLoss(queue_size=queue_size, **own)
    if name == "byol":
        return BYOLLoss()
    where = "hidden" if _known(name) in ("mae", "simmim") else "all"
    return ReconstructionLoss(kind="l1" if name == "simmim" else "mse", where=where)


def _known(name: str) -> str:
    if name not in BASELINES:
        raise ValueError(f"name: got {name!r}. Allowed are {', '.join(map(repr, BASELINES))}.")
    return name

"""Published ways to pretrain that papers compare with, by name."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from common.methods.autoencoder import Autoencoder, ReconstructionLoss
from common.methods.simmim import SimMIM
from common.networks.mit_unet import MixTransformerUNet

BASELINES = ("ae", "dae", "mae", "simmim")
_CORRUPTIONS = {"ae": "none", "dae": "noise", "mae": "patches"}


def baseline_method(
    network: MixTransformerUNet,
    *,
    name: str,
    patch_size: int | Sequence[int] = 16,
    mask_ratio: float = 0.75,
    noise_sd: float = 0.1,
) -> nn.Module:
    """The method of that name.

    Args:
        network: what is pretrained.
        name: one of :data:`BASELINES`.
        patch_size, mask_ratio: of ``mae`` and ``simmim``.
        noise_sd: of ``dae``.

    Raises:
        ValueError: for an unknown name, or what the method refuses.
    """
    if _known(name) == "simmim":
        return SimMIM(network, patch_size=patch_size, mask_ratio=mask_ratio)
    return Autoencoder(
        network, corruption=_CORRUPTIONS[name], noise_sd=noise_sd, patch_size=patch_size, mask_ratio=mask_ratio
    )


def baseline_loss(*, name: str) -> nn.Module:
    """The loss of the method of that name: hidden voxels alone where some are hidden, L1 in SimMIM."""
    where = "hidden" if _known(name) in ("mae", "simmim") else "all"
    return ReconstructionLoss(kind="l1" if name == "simmim" else "mse", where=where)


def _known(name: str) -> str:
    if name not in BASELINES:
        raise ValueError(f"name: got {name!r}. Allowed are {', '.join(map(repr, BASELINES))}.")
    return name

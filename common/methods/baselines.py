"""Published ways to pretrain that papers compare with, by name, each with the settings of its own paper."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import nn

from common.errors import InputError
from common.methods.autoencoder import Autoencoder, ReconstructionLoss
from common.methods.byol import BYOL, BYOLLoss
from common.methods.cmae import CMAE, CMAELoss
from common.methods.dino import DINO, DINOLoss
from common.methods.distortion import RandomView
from common.methods.hybmim import HybMIM, HybMIMLoss
from common.methods.maskfeat import MaskFeat, MaskFeatLoss
from common.methods.moco import MoCo, MoCoLoss
from common.methods.restoration import Restoration
from common.methods.simclr import SimCLR, SimCLRLoss
from common.methods.simmim import SimMIM
from common.methods.swav import SwAV, SwAVLoss
from common.methods.tang import Tang, TangLoss
from common.networks.mit_unet import MixTransformerUNet


@dataclass(frozen=True)
class _Baseline:
    """A method and its loss, which of a bundle's settings either takes, and their values where they are its own."""

    method: Callable[..., nn.Module]
    loss: Callable[..., nn.Module]
    of_method: tuple[str, ...] = ()
    of_loss: tuple[str, ...] = ()
    own: Mapping[str, Any] = field(default_factory=dict)


# what a baseline has that does not say otherwise
_USUAL: dict[str, Any] = {
    "patch_size": 16,
    "mask_ratio": 0.75,
    "n_prototypes": 0,
    "transfer_parts": ["encoder", "decoder"],
    "fresh_parts": ["head"],
}
_PATCHES = ("patch_size", "mask_ratio")
_NO_PATCHES: dict[str, Any] = {"mask_ratio": 0.0}
_ENCODER_ALONE: dict[str, Any] = {"transfer_parts": ["encoder"], "fresh_parts": ["decoder", "head"]}
_VIEWS: dict[str, Any] = {**_NO_PATCHES, **_ENCODER_ALONE}
_ALL_VOXELS = partial(ReconstructionLoss, kind="mse", where="all")
# own settings are those of the paper or the released code; docs/baselines.md has the sources
_BASELINES: dict[str, _Baseline] = {
    "ae": _Baseline(partial(Autoencoder, corruption="none"), _ALL_VOXELS, own=_NO_PATCHES),
    "dae": _Baseline(partial(Autoencoder, corruption="noise"), _ALL_VOXELS, ("noise_sd",), own=_NO_PATCHES),
    "mae": _Baseline(
        partial(Autoencoder, corruption="patches"), partial(ReconstructionLoss, kind="mse", where="hidden"), _PATCHES
    ),
    "simmim": _Baseline(
        SimMIM,
        partial(ReconstructionLoss, kind="l1", where="hidden"),
        _PATCHES,
        own={"patch_size": 32, "mask_ratio": 0.6, **_ENCODER_ALONE},
    ),
    "maskfeat": _Baseline(MaskFeat, MaskFeatLoss, _PATCHES, own={"mask_ratio": 0.4, **_ENCODER_ALONE}),
    "cmae": _Baseline(CMAE, CMAELoss, (*_PATCHES, "momentum"), ("temperature",)),
    "hybmim": _Baseline(HybMIM, HybMIMLoss, _PATCHES, ("temperature",), own={"mask_ratio": 0.4}),
    "simclr": _Baseline(SimCLR, SimCLRLoss, ("view_share",), ("temperature",), own=_VIEWS),
    "moco": _Baseline(MoCo, MoCoLoss, ("view_share", "momentum"), ("temperature", "queue_size"), own=_VIEWS),
    "byol": _Baseline(BYOL, BYOLLoss, ("view_share", "momentum"), own=_VIEWS),
    "dino": _Baseline(
        DINO,
        DINOLoss,
        ("view_share", "momentum", "n_prototypes"),
        ("temperature", "n_prototypes"),
        own={**_VIEWS, "n_prototypes": 4096},
    ),
    "swav": _Baseline(
        SwAV,
        SwAVLoss,
        ("view_share", "n_prototypes"),
        ("temperature", "queue_size"),
        own={**_VIEWS, "n_prototypes": 512},
    ),
    "tang": _Baseline(Tang, TangLoss, (), ("temperature",), own=_VIEWS),
    "restoration": _Baseline(Restoration, _ALL_VOXELS, own=_NO_PATCHES),
    "transvw": _Baseline(partial(Restoration, one_at_a_time=True), _ALL_VOXELS, own=_NO_PATCHES),
}
BASELINES = tuple(_BASELINES)


def baseline_setting(name: str, setting: str) -> Any:
    """A setting of that baseline's own: what a bundle takes that is given no other.

    Args:
        name: one of :data:`BASELINES`.
        setting: ``"patch_size"``, ``"mask_ratio"`` (0 where nothing is masked), ``"n_prototypes"`` (0 where there are
            none), ``"transfer_parts"`` or ``"fresh_parts"``.

    Raises:
        InputError: for an unknown name.
    """
    return {**_USUAL, **_known(name).own}[setting]


def settings_in_use(*, name: str, **given: Any) -> dict[str, Any]:
    """Of the settings that are ``given``, those that this baseline takes, and its name: what is recorded of a run.

    Raises:
        InputError: for an unknown name.
    """
    baseline = _known(name)
    taken = {*baseline.of_method, *baseline.of_loss}
    return {"name": name, **{setting: value for setting, value in given.items() if setting in taken}}


def baseline_method(
    network: MixTransformerUNet,
    *,
    name: str,
    patch_size: int | Sequence[int],
    mask_ratio: float,
    noise_sd: float = 0.1,
    view_share: float = 0.2,
    momentum: float | None = None,
    n_prototypes: int | None = None,
    **further: Any,
) -> nn.Module:
    """The method of that name, with those of the settings that it takes.

    Args:
        network: what is pretrained.
        name: one of :data:`BASELINES`.
        patch_size, mask_ratio: of those that mask, see :func:`baseline_setting`.
        noise_sd: of ``dae``.
        view_share: of those that compare views: smallest share of the image that a view shows.
        momentum: of those with a teacher; ``None`` is the paper's.
        n_prototypes: of ``dino`` and ``swav``, see :func:`baseline_setting`.
        further: arguments of that method alone, such as ``max_shift`` of :class:`common.methods.cmae.CMAE`.

    Raises:
        ValueError: for an unknown name, or what the method refuses.
    """
    baseline = _known(name)
    given = {
        "patch_size": patch_size,
        "mask_ratio": mask_ratio,
        "noise_sd": noise_sd,
        "view_share": view_share,
        "momentum": momentum,
        "n_prototypes": n_prototypes,
    }
    settings = _taken(baseline.of_method, given)
    if "view_share" in settings:
        settings["view"] = RandomView(min_share=settings.pop("view_share"))
    return baseline.method(network, **settings, **further)


def baseline_loss(
    *,
    name: str,
    temperature: float | None = None,
    queue_size: int = 1024,
    n_prototypes: int | None = None,
    **further: Any,
) -> nn.Module:
    """The loss of the method of that name, with those of the settings that it takes.

    Args:
        name: one of :data:`BASELINES`.
        temperature: of those that contrast; ``None`` is the paper's.
        queue_size: of ``moco`` and ``swav``.
        n_prototypes: of ``dino``, the same as its method's.
        further: arguments of that loss alone, such as ``contrastive_weight`` of CMAE's.

    Raises:
        ValueError: for an unknown name, or what the loss refuses.
    """
    baseline = _known(name)
    given = {"temperature": temperature, "queue_size": queue_size, "n_prototypes": n_prototypes}
    return baseline.loss(**_taken(baseline.of_loss, given), **further)


def _taken(names: Sequence[str], given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: given[name] for name in names if given[name] is not None}


def _known(name: str) -> _Baseline:
    if name not in _BASELINES:
        raise InputError(f"baseline: got {name!r}. Allowed are {', '.join(map(repr, BASELINES))}.")
    return _BASELINES[name]

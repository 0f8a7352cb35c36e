"""Pretrained weights into a network that is to be fine-tuned, with an account of what went in."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from common.checkpoints import check_card, load_checkpoint, network_weights, shortened
from common.errors import InputError

logger = logging.getLogger(__name__)


@dataclass
class TransferReport:
    """What became of the weights of the wanted parts.

    Attributes:
        loaded: names that were loaded, those of ``adapted`` among them.
        adapted: convolutions that see the image, when the numbers of input channels differ; positions of another image
            size.
        missing: names of the network that the file does not have.
        unexpected: names of the file that the network does not have.
        mismatched: name and both shapes where they do not fit.
        fresh: names of the network outside of the wanted parts.
        share: loaded share of the wanted parts' weights, in [0, 1].
    """

    loaded: list[str] = field(default_factory=list)
    adapted: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)
    share: float = 0.0

    def __str__(self) -> str:
        """One readable paragraph."""
        lines = [f"{len(self.loaded)} tensors loaded, {self.share:.1%} of the weights asked for"]
        for what, names in (
            ("adapted to the input", self.adapted),
            ("not in the file", self.missing),
            ("not in the network", self.unexpected),
            ("of another shape", self.mismatched),
        ):
            if names:
                lines.append(f"{len(names)} {what} ({shortened(names)})")
        if self.fresh:
            parts = sorted({name.split(".")[0] for name in self.fresh})
            lines.append(f"{len(self.fresh)} start fresh ({', '.join(parts)})")
        return "; ".join(lines) + "."


def transfer(
    network: nn.Module,
    path: str | os.PathLike,
    *,
    parts: Sequence[str] = ("encoder", "decoder"),
    min_share: float = 0.9,
    key: str = "model",
    expected_card: Mapping[str, Any] | None = None,
) -> TransferReport:
    """Load the weights of some parts of ``network`` from a pretrained one, and log what loaded.

    Where the numbers of input channels differ, the convolutions that see the image (the first one, and a shortcut
    around it) get the mean over the input channels, repeated, times C_old / C_new, so that an image whose channels are
    alike gives the same features. What depends on the size of the image, such as position embeddings, is fitted by the
    module itself (``adapt_weight(name, weight, img_size)``, ``None`` where it cannot), which is told the size that the
    file's card has. A head for another number of classes is never loaded, and not counted.

    Args:
        network: the plain network, changed in place.
        path: file of :func:`common.checkpoints.save_pretrained`.
        parts: names of child modules to load.
        min_share: least share of the parts' weights that must load; otherwise nothing is changed.
        key: where the weights are in the file.
        expected_card: values that the file's card must have.

    Returns:
        The report.

    Raises:
        InputError: when less than ``min_share`` fits, the card differs, or the file cannot be used.
    """
    if not 0 <= min_share <= 1:
        raise ValueError(f"min_share: got {min_share}. Give a share between 0 and 1.")
    wanted = network.state_dict()
    known = {name.split(".")[0] for name in wanted}
    if not parts or not set(parts) <= known:
        raise InputError(f"transfer_parts: got {list(parts)}. Choose among {', '.join(sorted(known))}.")
    content = load_checkpoint(path)
    check_card(content, path, expected_card)
    weights = network_weights(content, path, key=key)

    report = TransferReport(fresh=[name for name in wanted if not _is_in(name, parts)])
    report.unexpected = [name for name in weights if _is_in(name, parts) and name not in wanted]
    fitting: dict[str, Tensor] = {}
    total = loaded = 0
    seen = _image_channels(wanted, weights)
    img_size = _image_size(content.get("card"))
    for name, old in wanted.items():
        if not _is_in(name, parts):
            continue
        new = weights.get(name)
        if new is not None and _sees_the_image(new, old, seen):
            new = _adapted(new, old.shape[1])
            report.adapted.append(name)
        elif new is not None and (fitted := _fitted(network, name, new, img_size)) is not None and fitted is not new:
            new = fitted
            report.adapted.append(name)
        fits = new is not None and new.shape == old.shape
        if new is None:
            report.missing.append(name)
        elif fits:
            report.loaded.append(name)
            fitting[name] = new
        else:
            report.mismatched.append(f"{name} {tuple(new.shape)} instead of {tuple(old.shape)}")
        if fits or not name.startswith("head."):
            total += old.numel()
            loaded += old.numel() if fits else 0
    report.share = loaded / total if total else 0.0
    if report.share < min_share:
        raise InputError(
            f"{path}: less than the required {min_share:.0%} of the weights fit. {report} Pretrain with this network's "
            "settings, or lower min_share."
        )
    network.load_state_dict(fitting, strict=False)
    logger.info("%s: %s", path, report)
    return report


def _is_in(name: str, parts: Sequence[str]) -> bool:
    return name.split(".")[0] in parts


def _image_channels(wanted: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> tuple[int, int] | None:
    """Input channels of the first convolution in the file and in the network, where they differ."""
    first = next((name for name, value in wanted.items() if name.endswith("weight") and value.ndim > 2), None)
    if first is None or first not in weights or weights[first].ndim != wanted[first].ndim:
        return None
    found, needed = weights[first].shape[1], wanted[first].shape[1]
    return (found, needed) if found != needed else None


def _sees_the_image(new: Tensor, old: Tensor, channels: tuple[int, int] | None) -> bool:
    if channels is None or old.ndim <= 2 or new.ndim != old.ndim:
        return False
    return (new.shape[1], old.shape[1]) == channels and new[:, :1].shape == old[:, :1].shape


def _image_size(card: object) -> Sequence[int] | None:
    """Voxels per axis of the images that a network was trained on, fine-tuned or pretrained, if its card has them."""
    if not isinstance(card, Mapping):
        return None
    if "roi_size" not in card:
        card = card.get("pretraining")
    return card.get("roi_size") if isinstance(card, Mapping) else None


def _fitted(network: nn.Module, name: str, weight: Tensor, img_size: Sequence[int] | None) -> Tensor | None:
    owner, _, own_name = name.rpartition(".")
    adapt = getattr(network.get_submodule(owner), "adapt_weight", None)
    return None if adapt is None else adapt(own_name, weight, img_size)


def _adapted(weight: Tensor, in_channels: int) -> Tensor:
    mean = weight.mean(dim=1, keepdim=True) * (weight.shape[1] / in_channels)
    return mean.expand(-1, in_channels, *[-1] * (weight.ndim - 2)).clone()

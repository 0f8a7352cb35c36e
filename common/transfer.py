"""Pretrained weights into a network to fine-tune, with a report of what went where."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from common.checkpoints import load_checkpoint
from common.errors import InputError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TransferReport:
    """Parameter and buffer names by what happened to them."""

    loaded: list[str] = field(default_factory=list)
    adapted: list[str] = field(default_factory=list)  # first convolution, other number of channels
    missing: list[str] = field(default_factory=list)  # asked for, not in the file
    mismatched: list[str] = field(default_factory=list)  # in both, other shape
    unused: list[str] = field(default_factory=list)  # in the file only, or not asked for
    share: float = 0.0  # of the values asked for, how many are from the file

    def __str__(self) -> str:
        parts = [f"{len(self.loaded)} tensors loaded ({self.share:.0%} of what was asked for)"]
        for title in ("adapted", "missing", "mismatched", "unused"):
            names = getattr(self, title)
            if names:
                parts.append(f"{len(names)} {title} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})")
        return "; ".join(parts)


def transfer(
    network: nn.Module,
    path: str | Path,
    *,
    parts: Sequence[str] = ("encoder", "decoder"),
    min_share: float = 0.9,
    key: str = "model",
) -> TransferReport:
    """Copy pretrained weights into ``network``, by name.

    A ``module.`` prefix of distributed training is ignored. When the network takes another number of image channels
    than the pretrained one, the first convolution gets the mean over the old channels, repeated and scaled by old/new,
    so that its response to equal channels stays. Heads are left alone: classes are not reconstructed channels.

    Args:
        network: changed in place.
        path: a file with the weights under ``key``.
        parts: child modules to fill, e.g. ``("encoder",)``.
        min_share: smallest share of those parts' values that must come from the file.
        key: entry of the file.

    Returns:
        what loaded, what did not, and why; also logged.

    Raises:
        InputError: for a part that the network does not have, a bad file, or a share below ``min_share``; the network
            is then unchanged.
    """
    children = {name for name, _ in network.named_children()}
    if unknown := [part for part in parts if part not in children]:
        msg = f"transfer_parts: the network has no {', '.join(unknown)}. It has {', '.join(sorted(children))}."
        raise InputError(msg)
    content = load_checkpoint(path)
    if not isinstance(content.get(key), Mapping):
        msg = f"{path}: has no entry '{key}' with weights. Use a file written by pretraining."
        raise InputError(msg)
    given = {name.removeprefix("module."): value for name, value in content[key].items()}
    wanted = {n: v for n, v in network.state_dict().items() if n.split(".")[0] in parts}
    fitted, report = _fit(wanted, given)
    if report.share < min_share:
        msg = (
            f"{path}: only {report.share:.0%} of {', '.join(parts)} could be loaded, {min_share:.0%} are required "
            f"({report}). Use weights pretrained with the same network settings."
        )
        raise InputError(msg)
    network.load_state_dict(fitted, strict=False)
    logger.info("%s: %s.", path, report)
    return report


def _fit(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], TransferReport]:
    report = TransferReport(unused=[name for name in given if name not in wanted])
    fitted: dict[str, Tensor] = {}
    first = next((name for name, value in wanted.items() if value.ndim > 3), None)
    for name, target in wanted.items():
        if name not in given:
            report.missing.append(name)
        elif given[name].shape == target.shape:
            fitted[name] = given[name]
            report.loaded.append(name)
        elif name == first and _same_but_channels(given[name], target):
            fitted[name] = adapt_channels(given[name], target.shape[1])
            report.adapted.append(name)
        else:
            report.mismatched.append(name)
    total = sum(value.numel() for value in wanted.values())
    share = sum(wanted[name].numel() for name in fitted) / max(total, 1)
    return fitted, TransferReport(**{**vars(report), "share": share})


def _same_but_channels(a: Tensor, b: Tensor) -> bool:
    return a.ndim == b.ndim and a.shape[:1] + a.shape[2:] == b.shape[:1] + b.shape[2:]


def adapt_channels(weight: Tensor, channels: int) -> Tensor:
    """First convolution (O, C, *K) for another number of image channels: mean, repeat, scale by C / ``channels``."""
    repeated = weight.mean(1, keepdim=True).repeat_interleave(channels, dim=1)
    return repeated * (weight.shape[1] / channels)

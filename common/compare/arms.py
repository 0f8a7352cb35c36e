"""What a comparison is made of: arms, their cells, and the runs that give them their numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from common.compare.bundles import Bundle


@dataclass(frozen=True)
class Arm:
    """One way to a model.

    Attributes:
        name: unique, for tables and folders.
        bundle: whose commands are run.
        overrides: settings that differ from the bundle's, as far as its files know them.
        kind: ``"pretrained"``, ``"scratch"``, or ``"scratch_long"``: as many more steps as pretraining's seconds buy.
        network: fingerprint of what fine-tuning depends on; arms with the same one share a scratch arm.
        network_name: for tables.
        baseline: name of the scratch arm that this one is compared with; its own for that arm itself.
    """

    name: str
    bundle: Bundle
    overrides: Mapping[str, Any]
    kind: str
    network: str
    network_name: str
    baseline: str

    @property
    def folder(self) -> str:
        """The name as part of a path."""
        return self.name.replace(" ", "_")

    @property
    def has_body_rate(self) -> bool:
        """Whether one learning rate serves all layers but the head, and not a decay from layer to layer."""
        return self.kind != "pretrained" or bool(self.bundle.known({"body_lr_factor": 1.0}, "train"))


@dataclass(frozen=True)
class Cell:
    """An arm with a share of the labels, and one fold's cases: what a learning rate is chosen for.

    Attributes:
        arm: the way to a model.
        fraction: of the labelled training cases.
        fold: number from 0; ``None`` where a comparison has one split.
    """

    arm: Arm
    fraction: float
    fold: int | None = None

    @property
    def folder(self) -> str:
        """Of its runs, relative to that of the stage."""
        fold = "" if self.fold is None else f"/fold{self.fold}"
        return f"{self.arm.folder}/{label_name(self.fraction)}{fold}"


@dataclass(frozen=True)
class Run:
    """One bundle command.

    Attributes:
        key: its folder, relative to the comparison's.
        bundle, configs: which command.
        arguments: its settings, as ``--args_file`` holds them.
        steps: of the optimizer; 0 where nothing is trained.
        voxels: per step, for a guess of its time.
    """

    key: str
    bundle: Bundle
    configs: tuple[str, ...]
    arguments: Mapping[str, Any]
    steps: int = 0
    voxels: int = 0


def label_name(fraction: float) -> str:
    """E.g. ``labels_0.1``."""
    return f"labels_{fraction:g}"

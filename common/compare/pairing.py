"""Arms, and the training from scratch that each is compared with: that of its own network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from common.compare.arms import Arm
from common.compare.bundles import downstream, fingerprint
from common.compare.options import Options
from common.compare.presets import Variant, settings_of


def find_arms(variants: Sequence[Variant], options: Options, out: Path) -> list[Arm]:
    """An arm per variant, and before those that share a network the arms that train it from scratch.

    Args:
        variants: methods and rows of their presets.
        options: of the comparison.
        out: its folder, which may hold runs already.
    """
    networks: dict[str, list[Variant]] = {}
    kinds: dict[str, str] = {}
    for variant in variants:
        overrides = {**options.overrides, **settings_of(variant.overrides), **options.budget}
        config = variant.bundle.config("train", overrides=overrides)
        network = fingerprint(downstream(config))
        networks.setdefault(network, []).append(variant)
        kinds[network] = str(config["network_def"]["_target_"]).rsplit(".", 1)[-1]
    arms: list[Arm] = []
    for network, members in networks.items():
        taken = {arm.network_name for arm in arms}
        network_name, first = _scratch(out, kinds[network], members, taken)
        baseline = f"scratch {network_name}"
        shared = (network, network_name, baseline)
        arms.append(Arm(baseline, first.bundle, first.overrides, "scratch", *shared))
        if options.scratch_long:
            arms.append(Arm(f"{baseline} long", first.bundle, first.overrides, "scratch_long", *shared))
        arms += [Arm(v.name, v.bundle, v.overrides, "pretrained", *shared) for v in members]
    return arms


def _scratch(out: Path, kind: str, members: Sequence[Variant], taken: set[str]) -> tuple[str, Variant]:
    """Name of a network among those of its kind, and whose commands train it from scratch.

    A method that joins a comparison later may come first in the alphabet: what was begun keeps name and bundle.
    """
    names = [kind, *(f"{kind} {n}" for n in range(2, 100))]
    begun = {name: _begun_by(out, f"scratch_{name}") for name in names if name not in taken}
    for name, root in begun.items():
        for member in members:
            if str(member.bundle.root) == root:
                return name, member
    return next(name for name, root in begun.items() if root is None), members[0]


def _begun_by(out: Path, name: str) -> str | None:
    """Folder of the bundle that an arm's runs were begun with, ``None`` where there are none."""
    folder = out / "train" / name.replace(" ", "_")
    path = next(folder.rglob("arguments.json"), None)
    return None if path is None else str(json.loads(path.read_text(encoding="utf-8"))["bundle_root"])

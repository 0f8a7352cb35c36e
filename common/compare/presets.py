"""Variants of a method: rows of its paper's ablation tables, each a set of overrides.

A bundle's ``configs/presets.json`` holds ``{"table5": {"_summary_": ..., "row name": {setting: value}}}``; the method
as its configs have it is always compared too. A setting ``component#argument`` is one of ``pretrain.json``.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from common.compare.bundles import Bundle
from common.errors import InputError


@dataclass(frozen=True)
class Variant:
    """A method, or one row of an ablation of it.

    Attributes:
        name: the bundle's, and the row's after a dot.
        bundle: whose commands are run.
        overrides: what the row changes.
    """

    name: str
    bundle: Bundle
    overrides: Mapping[str, Any]


def find_variants(bundles: Sequence[Bundle], presets: Sequence[str]) -> list[Variant]:
    """The bundles as they are, followed by the rows of the named presets, such as ``tcs_mae/table5``.

    Raises:
        InputError: for a preset that does not exist (the nearest is named), or of a bundle that is not compared.
    """
    rows: dict[str, dict[str, Mapping[str, Any]]] = {}
    for bundle in bundles:
        rows |= {f"{bundle.name}/{name}": rows_of for name, rows_of in presets_of(bundle).items()}
    variants = [Variant(bundle.name, bundle, {}) for bundle in bundles]
    by_name = {bundle.name: bundle for bundle in bundles}
    for preset in presets:
        if preset not in rows:
            near = difflib.get_close_matches(preset, rows, n=1, cutoff=0.4)
            hint = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(sorted(rows)) or 'none'}."
            raise InputError(f"preset: no '{preset}' among the compared bundles. {hint}")
        bundle = by_name[preset.partition("/")[0]]
        for row, overrides in rows[preset].items():
            variants.append(Variant(f"{bundle.name}.{row}", bundle, overrides))
    return list({variant.name: variant for variant in variants}.values())


def settings_of(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Those that are settings, and not arguments of a component."""
    return {name: value for name, value in overrides.items() if "#" not in name}


def presets_of(bundle: Bundle) -> dict[str, dict[str, Mapping[str, Any]]]:
    """Preset -> row -> overrides; empty where the bundle has none."""
    path = bundle.root / "configs" / "presets.json"
    if not path.is_file():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    return {
        name: {row: overrides for row, overrides in rows.items() if not row.startswith("_")}
        for name, rows in content.items()
        if not name.startswith("_")
    }

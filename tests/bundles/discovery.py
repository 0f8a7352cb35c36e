"""The bundles that exist: a new folder is tested the moment it is there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
BUNDLES = sorted(p.parent.parent for p in REPOSITORY.glob("bundles/*/configs/metadata.json"))
NAMES = [bundle.name for bundle in BUNDLES]
BASE_CONFIGS = ("train", "pretrain", "inference")
OVERLAYS = {
    "evaluate": ("train",),
    "multi_gpu_train": ("train",),
    "multi_gpu_pretrain": ("pretrain",),
    "smoke": BASE_CONFIGS,
    "paper_2d": BASE_CONFIGS,
    "smoke_2d": BASE_CONFIGS,
}
CLASSIFIERS = [name for name in NAMES if (REPOSITORY / "bundles" / name / "configs" / "classify.json").exists()]


def config_file(name: str, config: str) -> Path:
    return REPOSITORY / "bundles" / name / "configs" / f"{config}.json"


def config(name: str, config: str) -> dict[str, Any]:
    return json.loads(config_file(name, config).read_text(encoding="utf-8"))


def expressions(node: Any) -> list[str]:
    """All strings in a config."""
    if isinstance(node, dict):
        return [text for value in node.values() for text in expressions(value)]
    if isinstance(node, list):
        return [text for value in node for text in expressions(value)]
    return [node] if isinstance(node, str) else []

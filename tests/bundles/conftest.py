"""Bundles trained once per test process."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bundles.discovery import NAMES
from tests.bundles.running import copy_bundle, run


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, phantom_dir: Path) -> dict[str, Path]:
    """Every bundle, both stages, uninterrupted: name -> folder."""
    roots = {}
    for name in NAMES:
        roots[name] = copy_bundle(name, tmp_path_factory.mktemp("trained"))
        run(roots[name], "train", dataset_dir=str(phantom_dir))
    return roots

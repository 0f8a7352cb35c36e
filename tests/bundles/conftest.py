"""Bundles trained once per test process."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bundles.running import copy_bundle, run


class Trained(dict[str, Path]):
    """Folder of a bundle after both stages, uninterrupted; trained when it is first asked for."""

    def __init__(self, factory: pytest.TempPathFactory, data: Path) -> None:
        super().__init__()
        self.factory = factory
        self.data = data

    def __missing__(self, name: str) -> Path:
        self[name] = copy_bundle(name, self.factory.mktemp("trained"))
        run(self[name], "train", dataset_dir=str(self.data))
        return self[name]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, phantom_dir: Path) -> Trained:
    """Every bundle trained at tiny sizes: name -> folder."""
    return Trained(tmp_path_factory, phantom_dir)

"""Shared fixtures: small generated CT, made once per test process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from common.data.phantom import write_phantoms

REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Slow end-to-end tests are collected only when ``scripts/test --slow`` asks for them."""
    if os.environ.get("CT_BUNDLES_SLOW"):
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    config.hook.pytest_deselected(items=slow)
    items[:] = [item for item in items if item not in slow]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Tests run side by side on few cores."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def phantom_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two unlabelled, four labelled and one test phantom of 56 voxels at 6 mm."""
    folder = tmp_path_factory.mktemp("data") / "ct"
    write_phantoms(folder, n_unlabelled=2, n_labelled=4, n_test=1, shape=(56, 48, 48), spacing=(6.0, 6.0, 6.0))
    return folder

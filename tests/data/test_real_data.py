"""The real CT of a folder that the environment variable CT_DATA_DIR names; collected only where it is set."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from common.data.cases import find_cases
from common.data.checks import inspect_folder
from common.data.datalist import pretraining_items, training_items
from common.data.structures import ALL_STRUCTURES

__test__ = bool(os.environ.get("CT_DATA_DIR"))  # pytest collects nothing here where it is not set


@pytest.fixture
def folder() -> Path:
    return Path(os.environ["CT_DATA_DIR"])


def test_every_file_is_sound(folder: Path) -> None:
    report = inspect_folder(folder, structures=ALL_STRUCTURES, spacing=(1.5, 1.5, 1.5))

    assert report.failures == []
    assert report.notes == []
    assert len(report.cases) == len(find_cases(folder)) > 0


def test_labels_hold_only_what_they_annotate(folder: Path) -> None:
    for case in inspect_folder(folder, structures=ALL_STRUCTURES, spacing=(0, 0, 0)).cases:
        if case.voxels is not None and case.annotated is not None:
            assert set(case.voxels) - {0} <= set(case.annotated)


def test_what_is_held_out_stays_out(folder: Path) -> None:
    train, val = (
        {item["case"] for item in training_items(folder, structures=ALL_STRUCTURES, section=section)}
        for section in ("train", "val")
    )
    test = {case.id for case in find_cases(folder) if case.subset == "test"}

    assert not train & val
    assert not {item["case"] for item in pretraining_items(folder)} & (val | test)

"""What a training says of volumes that do not fit into memory."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from common.data.datalist import training_items
from common.volume_cache import VolumeCache, available_memory, cache_advice
from tests.volumes import write_case


@pytest.fixture
def items(tmp_path: Path) -> list[dict]:
    """Nine labelled volumes of 12 x 10 x 8 voxels of 2 x 2 x 3 mm."""
    for i in range(10):
        write_case(tmp_path, f"{i}.nii.gz", f"labels/{i}.nii.gz")
    return training_items(tmp_path, structures={"heart": 1, "other": 2}, val_fraction=0.1)


def test_nothing_is_said_of_volumes_that_fit(items: list[dict]) -> None:
    needed = 9 * 960 * 3
    assert cache_advice(items, spacing=(2, 2, 3), available=needed) is None
    assert "9 volumes take up to 0.0 GiB" in str(cache_advice(items, spacing=(2, 2, 3), available=needed - 1))
    assert cache_advice(items, spacing=(4, 4, 6), available=needed // 2) is None
    assert cache_advice([{"image": "archive/images/a.b2nd"}], spacing=(2, 2, 3), available=0) is None
    assert cache_advice([], spacing=(2, 2, 3), available=0) is None


def test_every_process_of_a_machine_keeps_its_own(items: list[dict], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    advice = cache_advice(items, spacing=(2, 2, 3), available=2 * 9 * 960 * 3)
    assert advice is not None
    assert "by each of 4 processes" in advice


def test_a_part_of_the_volumes_is_decoded_again(items: list[dict], caplog: pytest.LogCaptureFixture) -> None:
    VolumeCache(items, lambda item: item, spacing=(2, 2, 3), cache_rate=0.5, progress=False)
    (message,) = caplog.messages
    assert "cache_rate 0.5 has 5 of them decoded again whenever a crop is drawn. `python -m common prepare" in message
    assert caplog.records[0].levelno == logging.WARNING


def test_memory_of_this_machine() -> None:
    free = available_memory()
    assert free is None or 0 < free < 2**50

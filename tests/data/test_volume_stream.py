from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from common.data import volume_stream
from common.data.volume_stream import VolumeStream
from common.errors import InputError
from common.recipes import preprocessing
from tests.volumes import AFFINE, ct_array, write_nifti


def test_a_sheared_volume_does_not_stop_the_others(tmp_path: Path) -> None:
    sheared = AFFINE.copy()
    sheared[1, 2] = 0.3
    paths = [
        write_nifti(tmp_path / name, ct_array(), affine)
        for name, affine in (("a.nii.gz", AFFINE), ("bad.nii.gz", sheared), ("c.nii.gz", AFFINE))
    ]
    stream = VolumeStream([{"image": str(path)} for path in paths], preprocessing(spacing=(3, 3, 3)))

    names = [Path(item["image"].meta["filename_or_obj"]).name for item in stream]

    assert names == ["a.nii.gz", "c.nii.gz"]
    with pytest.raises(InputError, match=r"1 of 3 volumes .* \(2 done\): .*bad\.nii\.gz: sheared"):
        stream.report()


@pytest.mark.parametrize("background", [True, False])
def test_one_volume_is_prepared_ahead_and_no_more(background: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = {n: threading.Event() for n in range(4)}
    ordered: list[int] = []

    def transform(item: dict) -> dict:
        loaded[item["n"]].set()
        return item

    class Executor(ThreadPoolExecutor):
        """Remembers what its thread was given to do, which it may not have begun yet."""

        def submit(self, load: Callable[..., Any], item: dict) -> Future:  # type: ignore[override]
            ordered.append(item["n"])
            return super().submit(load, item)

    monkeypatch.setattr(volume_stream, "ThreadPoolExecutor", Executor)
    items = iter(VolumeStream([{"n": n} for n in range(4)], transform, background=background))
    first = next(items)
    assert first["n"] == 0
    assert first["load_seconds"] >= 0
    assert ordered == ([0, 1] if background else [])
    assert loaded[1].wait(10) if background else not loaded[1].is_set()
    assert [item["n"] for item in items] == [1, 2, 3]


@pytest.mark.parametrize("background", [True, False])
def test_bad_volumes_are_left_out_and_defects_are_raised(background: bool) -> None:
    def transform(item: dict) -> dict:
        if item["n"] == 1:
            raise InputError("1.nii: broken. Repair it.")
        if item["n"] == 3:
            raise RuntimeError("a defect")
        return item

    stream = VolumeStream([{"n": n} for n in range(4)], transform, background=background)
    seen = []
    with pytest.raises(RuntimeError, match="a defect"):
        seen.extend(item["n"] for item in stream)
    assert stream.failures == ["1.nii: broken. Repair it."]

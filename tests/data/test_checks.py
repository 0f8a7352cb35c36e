from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.transforms import Compose, Orientationd

from common.data.checks import inspect_folder
from common.transforms.load import LoadVolumed
from common.transforms.spacing import SafeSpacingd
from tests.volumes import ct_array, label_array, write_case, write_nifti

STRUCTURES = {"lung_left": 1, "heart": 3}
# axes in the order (z, x, y) of the patient, turned a little
TURNED = np.array([[0.0, 1.5, 0.1, 3.0], [0.05, -0.1, 1.5, 4.0], [4.0, 0.0, 0.0, 5.0], [0, 0, 0, 1]])


def test_report_of_a_sound_folder(tmp_path: Path) -> None:
    write_case(tmp_path, "a.nii.gz", "labels/a.nii.gz", ids=(1,))
    write_case(tmp_path, "b.nii.gz")

    report = inspect_folder(tmp_path, structures=STRUCTURES, spacing=(2, 2, 3))

    labelled, unlabelled = report.cases
    assert (labelled.shape, labelled.spacing, labelled.subset) == ((12, 10, 8), (2, 2, 3), "train")
    assert labelled.hu == tuple(np.percentile(ct_array(), (0.5, 50, 99.5)))
    assert labelled.voxels == {0: 880, 1: 80}
    assert unlabelled.voxels is None
    assert (labelled.cache_bytes, unlabelled.cache_bytes) == (960 * 3, 960 * 2)
    assert report.cache_bytes == 960 * 5
    assert report.failures == report.notes == []
    text = "\n".join(report.lines())
    assert "2 usable cases (1 train, 0 test, 1 unlabelled)" in text
    assert "1 (80)" in text
    assert "heart (3): annotated in 1 cases, present in 0" in text
    assert text.endswith("No file would fail.")


@pytest.mark.parametrize("spacing", [(2, 3, 5), (1, 1, 1), (0, 0, 2)])
def test_memory_is_that_of_the_resampled_volume(tmp_path: Path, spacing: tuple[float, ...]) -> None:
    path = write_nifti(tmp_path / "a.nii.gz", ct_array((9, 20, 16)), TURNED)
    load = Compose(
        [
            LoadVolumed(keys="image"),
            Orientationd(keys="image", axcodes="RAS", labels=None),
            SafeSpacingd(keys="image", pixdim=spacing),
        ]
    )

    voxels = load({"image": str(path)})["image"].numel()

    estimate = inspect_folder(tmp_path, structures=STRUCTURES, spacing=spacing).cache_bytes / 2
    assert estimate == pytest.approx(voxels, rel=0.1)


def test_every_failure_is_listed_and_the_rest_reported(tmp_path: Path) -> None:
    write_case(tmp_path, "good.nii.gz")
    write_nifti(tmp_path / "flat.nii.gz", np.zeros((4, 4, 4), np.int16))
    write_nifti(tmp_path / "labels" / "flat.nii.gz", label_array((4, 4, 4), ids=(9,)))

    report = inspect_folder(tmp_path, structures=STRUCTURES, spacing=(2, 2, 2))

    assert [c.id for c in report.cases] == ["good"]
    assert ["all voxels" in report.failures[0], "unknown label ids 9" in report.failures[1]] == [True, True]
    assert report.lines()[-3:] == ["2 file(s) would fail:", *(f"  {f}" for f in report.failures)]


def test_structures_of_another_label_map_are_noted(tmp_path: Path) -> None:
    write_case(tmp_path, "a.nii.gz", "labels/a.nii.gz")
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"1": "cancer", "2": "cyst"}}))

    report = inspect_folder(tmp_path, structures=STRUCTURES, spacing=(2, 2, 2))

    assert report.failures == []
    assert "calls it 'cancer'" in report.notes[0]
    assert report.notes[0] in report.lines()


def test_voxel_counts_are_those_of_the_loaded_label(tmp_path: Path) -> None:
    write_case(tmp_path, "a.nii.gz", "labels/a.nii.gz", ids=(1, 3))
    loaded = LoadVolumed(keys="label")({"label": str(tmp_path / "labels" / "a.nii.gz")})["label"]

    (case,) = inspect_folder(tmp_path, structures=STRUCTURES, spacing=(2, 2, 2)).cases

    assert case.voxels == {i: int(torch.sum(loaded == i)) for i in (0, 1, 3)}

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from common.data.datalist import inference_items, known_ids, pretraining_items, training_items
from common.errors import InputError
from tests.volumes import ct_array, write_case, write_dicom, write_nifti

STRUCTURES = {"lung_left": 1, "heart": 3}


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Five labelled cases (one of them partial), a labelled and an unlabelled test case, two unlabelled ones."""
    for i in range(5):
        write_case(tmp_path, f"imagesTr/c{i}.nii.gz", f"labelsTr/c{i}.nii.gz")
    write_case(tmp_path, "imagesTs/t0.nii.gz", "labelsTs/t0.nii.gz")
    write_case(tmp_path, "imagesTs/t1.nii.gz")
    for i in range(2):
        write_case(tmp_path, f"imagesUn/u{i}.nii.gz")
    content = {
        "labels": {"0": "background", "1": "Lung left", "2": "lung_right"},
        "cases": {"c0": {"annotated_ids": [1]}},
    }
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    return tmp_path


def _cases(items: list[dict]) -> set[str]:
    return {item["case"] for item in items}


def test_sections_are_disjoint_and_complete(dataset: Path) -> None:
    train, val, test = (training_items(dataset, structures=STRUCTURES, section=s) for s in ("train", "val", "test"))

    assert (len(train), len(val)) == (4, 1)
    assert _cases(train) | _cases(val) == {f"c{i}" for i in range(5)}
    assert _cases(test) == {"t0"}


def test_an_item(dataset: Path) -> None:
    sections = [training_items(dataset, structures=STRUCTURES, section=s) for s in ("train", "val")]
    items = {item["case"]: item for section in sections for item in section}

    assert items["c0"] == {
        "image": str(dataset / "imagesTr/c0.nii.gz"),
        "label": str(dataset / "labelsTr/c0.nii.gz"),
        "annotated": [1],
        "known_ids": [1, 2],
        "case": "c0",
    }
    assert items["c1"]["annotated"] == [1, 2]  # what the label map can hold, so the heart is not annotated


def test_without_a_label_map_labels_hold_the_structures(tmp_path: Path) -> None:
    for i in range(2):
        write_case(tmp_path, f"{i}.nii.gz", f"labels/{i}.nii.gz")

    (item,) = training_items(tmp_path, structures=STRUCTURES)

    assert "annotated" not in item
    assert item["known_ids"] == known_ids(tmp_path, STRUCTURES) == [1, 3]


def test_log_names_what_cannot_be_learnt(dataset: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        training_items(dataset, structures=STRUCTURES)

    assert f"train: 4 labelled cases of {dataset}" in caplog.messages
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert warnings == ["structure heart (id 3): no training case annotates it, so it cannot be learnt"]


def test_names_that_contradict_dataset_json(dataset: Path) -> None:
    with pytest.raises(InputError, match=r"structures: id 2 is 'spleen', but .*dataset\.json calls it 'lung_right'"):
        training_items(dataset, structures={"spleen": 2})


def test_pretraining_never_sees_what_is_held_out(dataset: Path) -> None:
    val = _cases(training_items(dataset, structures=STRUCTURES, section="val", seed=5))
    items = pretraining_items(dataset, seed=5)

    assert _cases(items) == {"c0", "c1", "c2", "c3", "c4", "u0", "u1"} - val
    assert all(set(item) == {"image", "case"} for item in items)
    assert len(pretraining_items(dataset, seed=5, include_test=True)) == 9


def test_pretraining_keeps_the_images_whose_labels_are_withheld(dataset: Path) -> None:
    few = _cases(training_items(dataset, structures=STRUCTURES, label_fraction=0.25))

    assert len(few) == 1
    assert few < _cases(training_items(dataset, structures=STRUCTURES)) < _cases(pretraining_items(dataset))


def test_pretraining_leaves_out_further_scans_of_those_held_out(tmp_path: Path) -> None:
    for name in ("a_1", "a_2", "b_1", "c_1"):
        write_case(tmp_path, f"imagesUn/{name}.nii.gz")
    assert _cases(pretraining_items(tmp_path, hold_out=["a_1"], patient="^[^_]+")) == {"b_1", "c_1"}
    assert _cases(pretraining_items(tmp_path, hold_out=["a_1"])) == {"a_2", "b_1", "c_1"}


def test_pretraining_on_images_only(tmp_path: Path) -> None:
    write_case(tmp_path, "a.nii.gz")
    assert _cases(pretraining_items(tmp_path)) == {"a"}
    write_case(tmp_path, "b.nii.gz", "labels/b.nii.gz")
    assert _cases(pretraining_items(tmp_path)) == {"a", "b"}
    with pytest.raises(InputError, match="labelled cases: 1 found, the split needs at least 2"):
        training_items(tmp_path, structures=STRUCTURES)


def test_only_test_cases(tmp_path: Path) -> None:
    write_case(tmp_path, "imagesTs/a.nii.gz")
    with pytest.raises(InputError, match=r"holds test cases only.* Put volumes into imagesTr"):
        pretraining_items(tmp_path)


def test_no_labelled_test_case(tmp_path: Path) -> None:
    for i in range(2):
        write_case(tmp_path, f"{i}.nii.gz", f"labels/{i}.nii.gz")
    with pytest.raises(InputError, match=r"no labelled test case\. Put the labels of test cases into labelsTs"):
        training_items(tmp_path, structures=STRUCTURES, section="test")


def test_inference_on_a_file_a_series_and_a_folder(tmp_path: Path) -> None:
    file = write_nifti(tmp_path / "scan.nii.gz", ct_array((4, 4, 4)))
    series = write_dicom(tmp_path / "series", ct_array((4, 4, 2)))

    assert inference_items(file) == [{"image": str(file), "case": "scan"}]
    assert inference_items(str(series)) == [{"image": str(series), "case": "series"}]
    assert [item["case"] for item in inference_items(tmp_path)] == ["scan", "series"]
    for nothing in ("", tmp_path / "nowhere"):
        with pytest.raises(InputError, match=r"no such file or folder\. Give a NIfTI file"):
            inference_items(nothing)

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from common.data.cases import Case, find_cases, label_names
from common.errors import InputError
from tests.volumes import ct_array, write_case, write_dicom, write_nifti


def _summary(root: Path) -> list[tuple[str, str, str | None, str]]:
    """Id, image, label and subset of each case, with paths relative to the folder."""
    return [
        (c.id, str(Path(c.image).relative_to(root)), c.label and str(Path(c.label).relative_to(root)), c.subset)
        for c in find_cases(root)
    ]


def _dataset_json(root: Path, **content: Any) -> None:
    root.mkdir(exist_ok=True)
    (root / "dataset.json").write_text(json.dumps(content))


def test_decathlon_layout_without_json(tmp_path: Path) -> None:
    write_case(tmp_path, "imagesTr/b.nii.gz", "labelsTr/b.nii.gz")
    write_case(tmp_path, "imagesTr/a.nii", "labelsTr/a.nii.gz")
    write_case(tmp_path, "imagesTr/c.nii.gz")
    write_case(tmp_path, "imagesTs/t.nii.gz", "labelsTs/t.nii.gz")
    write_case(tmp_path, "imagesUn/u.nii.gz")
    (tmp_path / "imagesTr" / "._b.nii.gz").write_bytes(b"resource fork")

    assert _summary(tmp_path) == [
        ("a", "imagesTr/a.nii", "labelsTr/a.nii.gz", "train"),
        ("b", "imagesTr/b.nii.gz", "labelsTr/b.nii.gz", "train"),
        ("c", "imagesTr/c.nii.gz", None, "unlabelled"),
        ("t", "imagesTs/t.nii.gz", "labelsTs/t.nii.gz", "test"),
        ("u", "imagesUn/u.nii.gz", None, "unlabelled"),
    ]


def test_lists_of_dataset_json_are_used(tmp_path: Path) -> None:
    for name in ("a", "b", "left_out"):
        write_case(tmp_path, f"imagesTr/{name}.nii.gz", f"labelsTr/{name}.nii.gz")
    write_case(tmp_path, "imagesTs/t.nii.gz")
    write_case(tmp_path, "imagesUn/u.nii.gz")
    _dataset_json(
        tmp_path,
        training=[{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in ("a", "b")],
        test=["./imagesTs/t.nii.gz"],
        cases={"a": {"annotated_ids": [1, 2]}, "b": {}, "t": {"annotated_ids": []}},
    )

    assert _summary(tmp_path) == [
        ("a", "imagesTr/a.nii.gz", "labelsTr/a.nii.gz", "train"),
        ("b", "imagesTr/b.nii.gz", "labelsTr/b.nii.gz", "train"),
        ("t", "imagesTs/t.nii.gz", None, "test"),
        ("u", "imagesUn/u.nii.gz", None, "unlabelled"),
    ]
    assert [c.annotated for c in find_cases(tmp_path)] == [(1, 2), None, (), None]


def test_a_label_that_annotates_nothing_is_not_used(tmp_path: Path) -> None:
    write_case(tmp_path, "imagesTr/a.nii.gz", "labelsTr/a.nii.gz")
    _dataset_json(tmp_path, cases={"a": {"annotated_ids": []}})

    assert [(c.label, c.subset) for c in find_cases(tmp_path)] == [(None, "unlabelled")]


@pytest.mark.parametrize("labels", ["labels", "labels/final", "labelsTr"])
def test_flat_layout(tmp_path: Path, labels: str) -> None:
    write_case(tmp_path, "a.nii.gz", f"{labels}/a.nii.gz")
    write_case(tmp_path, "b.nii.gz")

    assert _summary(tmp_path) == [
        ("a", "a.nii.gz", f"{labels}/a.nii.gz", "train"),
        ("b", "b.nii.gz", None, "unlabelled"),
    ]


def test_images_beside_labels(tmp_path: Path) -> None:
    write_case(tmp_path, "images/a.nii.gz", "labels/a.nii.gz")

    assert _summary(tmp_path) == [("a", "images/a.nii.gz", "labels/a.nii.gz", "train")]


def test_channel_suffix_of_nnunet(tmp_path: Path) -> None:
    write_case(tmp_path, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz")
    write_case(tmp_path, "imagesTr/b_0000.nii.gz", "labelsTr/b.nii.gz")

    assert [s[0] for s in _summary(tmp_path)] == ["a", "b"]
    assert all(c.label for c in find_cases(tmp_path))


def test_numbered_names_keep_their_number(tmp_path: Path) -> None:
    write_case(tmp_path, "case_0000.nii.gz", "labels/case_0000.nii.gz")
    write_case(tmp_path, "case_0001.nii.gz", "labels/case_0001.nii.gz")

    assert [(c.id, c.subset) for c in find_cases(tmp_path)] == [("case_0000", "train"), ("case_0001", "train")]


def test_dicom_series_in_folders(tmp_path: Path) -> None:
    write_dicom(tmp_path / "p1", ct_array((4, 4, 2)))
    write_case(tmp_path, "p2.nii.gz", "labels/p1.nii.gz")
    (tmp_path / "empty").mkdir()

    assert _summary(tmp_path) == [
        ("p1", "p1", "labels/p1.nii.gz", "train"),
        ("p2", "p2.nii.gz", None, "unlabelled"),
    ]
    assert find_cases(tmp_path / "p1") == [Case("p1", str(tmp_path / "p1"), None, None, "unlabelled")]


def test_label_names_in_both_directions(tmp_path: Path) -> None:
    assert label_names(tmp_path) is None
    assert label_names(tmp_path / "missing") is None
    _dataset_json(tmp_path, labels={"0": "background", "2": "liver", "1": "lung"})
    assert label_names(tmp_path) == {1: "lung", 2: "liver"}
    _dataset_json(tmp_path, labels={"background": 0, "liver": 2, "lung": 1})
    assert label_names(tmp_path) == {1: "lung", 2: "liver"}


class TestErrors:
    def test_missing_folder(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"nowhere: no such folder\. Give the folder that holds the CT volumes"):
            find_cases(tmp_path / "nowhere")
        with pytest.raises(InputError, match="dataset_dir: empty"):
            find_cases("")
        with pytest.raises(InputError, match="not a folder"):
            find_cases(write_nifti(tmp_path / "a.nii.gz", ct_array()))

    def test_no_images_says_what_was_looked_for(self, tmp_path: Path) -> None:
        (tmp_path / "scan.nrrd").write_text("x")
        with pytest.raises(InputError, match=r"no images\. Looked for NIfTI .* DICOM series, .* imagesTr, imagesTs"):
            find_cases(tmp_path)

    def test_same_id_twice(self, tmp_path: Path) -> None:
        write_case(tmp_path, "imagesTr/a.nii.gz")
        write_case(tmp_path, "imagesUn/a.nii")
        with pytest.raises(InputError, match=r"imagesUn/a\.nii: same case id 'a' as .*imagesTr/a\.nii\.gz\. Rename"):
            find_cases(tmp_path)

    def test_listed_but_missing(self, tmp_path: Path) -> None:
        _dataset_json(tmp_path, training=[{"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz"}])
        with pytest.raises(InputError, match=r"imagesTr/a\.nii\.gz: listed in .*dataset\.json but not there"):
            find_cases(tmp_path)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("{", "not valid JSON"),
            ("[]", "a JSON object is expected"),
            ('{"training": [{"label": "x"}]}', "an entry of 'training' names no image"),
            ('{"cases": {"a": {"annotated_ids": "1,2"}}}', "annotated_ids of case a is not a list"),
        ],
    )
    def test_bad_dataset_json(self, tmp_path: Path, text: str, message: str) -> None:
        write_case(tmp_path, "a.nii.gz")
        (tmp_path / "dataset.json").write_text(text)
        with pytest.raises(InputError, match=rf"dataset\.json: {message}"):
            find_cases(tmp_path)

    def test_bad_label_map(self, tmp_path: Path) -> None:
        _dataset_json(tmp_path, labels=["background", "liver"])
        with pytest.raises(InputError, match=r"dataset\.json: 'labels' is not a map"):
            label_names(tmp_path)

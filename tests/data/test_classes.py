"""``classes.csv``: what it may hold, what is refused, and which cases become which section."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from common.data.classes import classified_items, read_classes, write_classes
from common.data.datalist import pretraining_items, training_items
from common.errors import InputError
from tests.volumes import write_case

TRAIN = [f"c{i}" for i in range(6)]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Six cases, four of them with masks; two test cases; an unlabelled case. One class alternates, one is partial."""
    for i, case in enumerate(TRAIN):
        write_case(tmp_path, f"imagesTr/{case}.nii.gz", f"labelsTr/{case}.nii.gz" if i < 4 else None)
    for case in ("t0", "t1"):
        write_case(tmp_path, f"imagesTs/{case}.nii.gz")
    write_case(tmp_path, "imagesUn/u0.nii.gz")
    return tmp_path


def table(folder: Path, *lines: str) -> Path:
    path = folder / "classes.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def refusal(folder: Path, *lines: str, **options: object) -> str:
    with pytest.raises(InputError) as caught:
        read_classes(table(folder, *lines), **options)
    return str(caught.value)


def test_a_table_is_read_as_it_stands(tmp_path: Path) -> None:
    found = read_classes(table(tmp_path, "case, nodule ,mass", "a,1,0", "", "b.nii.gz,,1.0"))
    assert found.names == ("nodule", "mass")
    assert found.labels["a"] == (1.0, 0.0)
    assert math.isnan(found.labels["b"][0])
    assert found.labels["b"][1] == 1.0


def test_a_table_of_a_spreadsheet_program_is_read(tmp_path: Path) -> None:
    (tmp_path / "classes.csv").write_bytes("\ufeffcase,x\r\na,1\r\n".encode())
    assert read_classes(tmp_path).labels == {"a": (1.0,)}


def test_another_file_and_some_columns_can_be_chosen(tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text("case,x,y\na,1,0\n")
    assert read_classes(tmp_path, classes_file=path, classes="y").labels == {"a": (0.0,)}
    assert read_classes(tmp_path, classes_file=path, classes=["y", "x"]).labels == {"a": (0.0, 1.0)}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_classes(tmp_path / "classes.csv", ["x", "y"], {"b": [0.0, math.nan], "a": [1.0, 0.0]})
    assert (tmp_path / "classes.csv").read_text() == "case,x,y\na,1,0\nb,0,\n"
    assert read_classes(tmp_path).labels["a"] == (1.0, 0.0)


def test_digest_changes_with_a_label_and_not_with_the_order(tmp_path: Path) -> None:
    first = read_classes(table(tmp_path, "case,x", "a,1", "b,0")).digest
    assert read_classes(table(tmp_path, "case,x", "b,0", "a,1")).digest == first
    assert read_classes(table(tmp_path, "case,x", "b,0", "a,")).digest != first


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "empty"),
        (["name,x", "a,1"], "the header is 'name,x'"),
        (["case;x", "a;1"], "the header is 'case;x'.* with commas"),
        (["case", "a"], "the header is 'case'"),
        (["case,x,x", "a,1,1"], "class 'x' has two columns"),
        (["case,x,y", "a,1"], "line 2 has 2 entries, the header 3"),
        (["case,x", "a,1", "b,2"], "line 3: '2' is not 0, 1 or nothing"),
        (["case,x", "a,yes"], "'yes' is not"),
        (["case,x", "a,nan"], "'nan' is not"),
        (["case,x", "a,1", "a.nii.gz,0"], "case 'a' is there twice, again in line 3"),
    ],
)
def test_bad_tables_are_refused_by_name(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_classes(table(tmp_path, *lines))


def test_a_missing_file_or_column_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"classes\.csv: not there.*--classes_file"):
        read_classes(tmp_path)
    assert "no column 'z'. Choose among x, y" in refusal(tmp_path, "case,x,y", "a,1,0", classes=["z"])
    assert "['x', 'x'] given" in refusal(tmp_path, "case,x,y", "a,1,0", classes=["x", "x"])


def cases(items: list[dict]) -> list[str]:
    return [item["case"] for item in items]


def test_sections_are_those_of_the_segmentation_and_masks_are_not_needed(dataset: Path) -> None:
    labels = {case: [float(i % 2)] for i, case in enumerate([*TRAIN[:4], "t0"])}
    write_classes(dataset / "classes.csv", ["x"], labels)
    found = read_classes(dataset)
    for seed in range(20):  # one of which has both values in both sections
        try:
            train, val = (
                classified_items(dataset, found, val_fraction=0.5, seed=seed, section=s) for s in ("train", "val")
            )
        except InputError:
            continue
        break
    for section, items in (("train", train), ("val", val)):
        masks = training_items(dataset, structures={"a": 1, "b": 2}, val_fraction=0.5, seed=seed, section=section)
        assert cases(items) == cases(masks)
    test = classified_items(dataset, found, section="test")
    assert test == [{"image": str(dataset / "imagesTs/t0.nii.gz"), "case": "t0", "label": np.array([0], np.float32)}]


def test_cases_of_which_nothing_is_known_stay_out(dataset: Path) -> None:
    labels = {case: [float(i % 2)] for i, case in enumerate(TRAIN)}
    labels["u0"] = [math.nan]
    write_classes(dataset / "classes.csv", ["x"], labels)
    found = read_classes(dataset)
    for seed in range(20):
        try:
            sections = [
                classified_items(dataset, found, val_fraction=0.5, seed=seed, section=s) for s in ("train", "val")
            ]
        except InputError:
            continue
        break
    assert sorted(cases(sections[0]) + cases(sections[1])) == TRAIN
    assert classified_items(dataset, found, section="test") == []


def test_a_case_that_is_not_there_is_refused(dataset: Path) -> None:
    write_classes(dataset / "classes.csv", ["x"], {**dict.fromkeys(TRAIN, (1.0,)), "nobody": [0.0]})
    with pytest.raises(InputError, match=r"case 'nobody' is not in"):
        classified_items(dataset, read_classes(dataset))


@pytest.mark.parametrize("section", ["train", "val"])
def test_a_class_with_one_value_is_refused(dataset: Path, section: str) -> None:
    write_classes(dataset / "classes.csv", ["x"], dict.fromkeys(TRAIN, (0.0,)))
    with pytest.raises(InputError, match=r"class 'x' is 0 in all of the \d (training|validation) cases.*--classes"):
        classified_items(dataset, read_classes(dataset), section=section)
    write_classes(dataset / "classes.csv", ["x", "y"], {c: [float(i % 2), math.nan] for i, c in enumerate(TRAIN)})
    found = read_classes(dataset, classes=["y"])
    with pytest.raises(InputError, match="labelled cases: 0 found"):
        classified_items(dataset, found, section=section)


def test_pretraining_leaves_out_what_is_held_out(dataset: Path) -> None:
    used = cases(pretraining_items(dataset))
    assert {"c4", "c5", "u0"} <= set(used)
    assert cases(pretraining_items(dataset, hold_out=["c4", "u0"])) == [c for c in used if c not in ("c4", "u0")]
    with pytest.raises(InputError, match="validation and test cases only"):
        pretraining_items(dataset, hold_out=used)

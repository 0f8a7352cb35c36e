"""What is held out is held out of everything."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.compare.cases import compared_cases
from common.errors import InputError


def write(root: Path, folder: str, *names: str, labels: str | None = None) -> None:
    """Files of different content; nothing here reads them as volumes."""
    for name in names:
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / folder / f"{name}.nii.gz").write_text(f"{folder} {name}")
        if labels:
            (root / labels).mkdir(parents=True, exist_ok=True)
            (root / labels / f"{name}.nii.gz").write_text(f"label of {name}")


def ids(cases: list) -> set[str]:
    return {case.id for case in cases}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, "imagesTr", *(f"tr{i}_1" for i in range(10)), labels="labelsTr")
    write(tmp_path, "imagesTs", "ts0_1", "ts1_1", labels="labelsTs")
    write(tmp_path, "imagesTs", "ts2_1")
    write(tmp_path, "imagesUn", "un0_1", "un1_1")
    return tmp_path


@pytest.fixture
def unscored(folder: Path) -> Path:
    """The folder without labels of its test cases."""
    for file in (folder / "labelsTs").iterdir():
        file.unlink()
    return folder


def test_pretraining_sees_no_held_out_case_of_any_seed(folder: Path) -> None:
    (cases,) = compared_cases(folder, val_fraction=0.2)
    assert ids(cases.test) == {"ts0_1", "ts1_1"}
    assert (len(cases.val), len(cases.pool)) == (2, 8)
    assert ids(cases.pretraining) == ids(cases.pool) | {"un0_1", "un1_1"}  # and not ts2_1, although it has no label
    for seed in range(5):
        for fraction in (0.25, 1.0):
            assert ids(cases.labelled(fraction, seed)) <= ids(cases.pool)


def test_a_seed_draws_labelled_cases_and_a_smaller_share_is_among_a_larger(folder: Path) -> None:
    (cases,) = compared_cases(folder)
    small, large = (ids(cases.labelled(fraction, 3)) for fraction in (0.25, 0.5))
    assert (len(small), len(large)) == (2, 4)
    assert small < large
    assert len({frozenset(ids(cases.labelled(0.25, seed))) for seed in range(8)}) > 1


def test_without_test_labels_some_labelled_cases_are_set_apart(unscored: Path) -> None:
    (cases,) = compared_cases(unscored, test_fraction=0.3, val_fraction=0.2)
    assert (len(cases.test), len(cases.val), len(cases.pool)) == (3, 1, 6)
    groups = [ids(cases.test), ids(cases.val), ids(cases.pool)]
    assert len(set().union(*groups)) == sum(map(len, groups))
    assert not ids(cases.pretraining) & {*ids(cases.test), *ids(cases.val), "ts0_1", "ts1_1", "ts2_1"}


def test_further_cases_of_a_held_out_patient_are_left_out(folder: Path) -> None:
    write(folder, "imagesUn", "ts0_2")
    write(folder, "imagesTr", "ts1_3", labels="labelsTr")
    (cases,) = compared_cases(folder, patient="^[^_]+")
    assert {"ts0_2", "ts1_3"} <= ids(cases.left_out)
    assert not {"ts0_2", "ts1_3"} & ids([*cases.pretraining, *cases.pool, *cases.val])
    assert "ts0_2" in ids(compared_cases(folder)[0].pretraining)


def test_a_copy_of_a_test_image_is_left_out(folder: Path) -> None:
    (folder / "imagesUn" / "copy.nii.gz").write_bytes((folder / "imagesTs" / "ts0_1.nii.gz").read_bytes())
    (cases,) = compared_cases(folder)
    assert ids(cases.left_out) == {"copy"}
    assert "copy" not in ids(cases.pretraining)


def test_held_out_images_are_pretrained_on_only_when_asked(folder: Path) -> None:
    assert ids(compared_cases(folder, include_held_out=True)[0].pretraining) >= {"ts0_1", "ts2_1"}


def test_too_few_cases_say_how_many_are_needed(tmp_path: Path) -> None:
    write(tmp_path, "imagesTr", "a", "b", labels="labelsTr")
    with pytest.raises(InputError, match=r"2 labelled training cases, a comparison needs 3"):
        compared_cases(tmp_path)
    with pytest.raises(InputError, match="test_fraction"):
        compared_cases(tmp_path, test_fraction=0.0)


def test_folds_test_every_labelled_case_once_and_pretrain_on_none(unscored: Path) -> None:
    folds = compared_cases(unscored, folds=3, val_fraction=0.2)
    tested = [case.id for fold in folds for case in fold.test]
    assert sorted(tested) == [f"tr{i}_1" for i in range(10)]
    assert [len(fold.test) for fold in folds] == [4, 3, 3]
    for fold in folds:
        groups = [ids(fold.test), ids(fold.val), ids(fold.pool)]
        assert all(groups)
        assert len(set().union(*groups)) == sum(map(len, groups)) == 10
        assert ids(fold.pretraining) == {"un0_1", "un1_1"}
    assert ids(compared_cases(unscored, folds=3, split_seed=1)[0].test) != ids(folds[0].test)


def test_over_folds_every_case_trains_and_none_validates_in_most(unscored: Path) -> None:
    write(unscored, "imagesTr", *(f"tr{i}_1" for i in range(10, 20)), labels="labelsTr")
    folds = compared_cases(unscored, folds=5, val_fraction=0.2)
    for case in (f"tr{i}_1" for i in range(20)):
        assert sum(case in ids(fold.val) for fold in folds) <= 1
        assert sum(case in ids(fold.pool) for fold in folds) >= 3


def test_nothing_validates_that_a_test_case_has_a_copy_or_another_scan_of(folder: Path) -> None:
    (copied,) = compared_cases(folder)
    case = copied.val[0].id
    (folder / "imagesTr" / f"{case}.nii.gz").write_bytes((folder / "imagesTs" / "ts0_1.nii.gz").read_bytes())
    (copied,) = compared_cases(folder)
    assert case in ids(copied.left_out)
    assert case not in ids([*copied.val, *copied.pool, *copied.pretraining])
    for name in [f"tr{i}_1" for i in range(10)]:
        write(folder, "imagesTr", name.replace("tr", "ts").replace("_1", "_2"), labels="labelsTr")
    (scans,) = compared_cases(folder, patient="^[^_]+")
    assert {"ts0_2", "ts1_2", "ts2_2"} <= ids(scans.left_out)
    assert not {"ts0", "ts1", "ts2"} & {i.partition("_")[0] for i in ids([*scans.val, *scans.pool])}


def test_folds_keep_a_patient_together(unscored: Path) -> None:
    write(unscored, "imagesTr", *(f"tr{i}_2" for i in range(10)), labels="labelsTr")
    write(unscored, "imagesUn", "tr3_3")
    for fold in compared_cases(unscored, folds=5, patient="^[^_]+"):
        sides = [{name.partition("_")[0] for name in ids(cases)} for cases in (fold.test, fold.val, fold.pool)]
        assert len(set().union(*sides)) == sum(map(len, sides)) == 10
        assert "tr3_3" not in ids(fold.pretraining)


def test_folds_that_cannot_be_say_why(folder: Path) -> None:
    with pytest.raises(InputError, match="has 2 labelled test cases, on which all are tested"):
        compared_cases(folder, folds=2)
    for file in (folder / "labelsTs").iterdir():
        file.unlink()
    with pytest.raises(InputError, match="11 given, 10 labelled patients found"):
        compared_cases(folder, folds=11)
    for file in (folder / "imagesUn").iterdir():
        file.unlink()
    with pytest.raises(InputError, match="no image is left to pretrain on"):
        compared_cases(folder, folds=2)

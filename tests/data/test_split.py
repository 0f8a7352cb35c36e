from __future__ import annotations

from typing import Any

import pytest

from common.data.cases import Case, Subset
from common.data.split import Split, split_cases, split_folds
from common.errors import InputError


def _case(name: str, subset: Subset = "train") -> Case:
    return Case(name, f"{name}.nii.gz", None if subset == "unlabelled" else f"labels/{name}.nii.gz", None, subset)


def _ids(cases: list[Case]) -> list[str]:
    return [c.id for c in cases]


LABELLED = [_case(f"p{i // 2}_scan{i}") for i in range(20)]
OTHERS = [_case("t", "test"), _case("u1", "unlabelled"), _case("u2", "unlabelled")]


def test_every_case_is_in_one_place() -> None:
    split = split_cases(LABELLED + OTHERS, val_fraction=0.2)

    assert (len(split.train), len(split.val), _ids(split.test), _ids(split.unlabelled)) == (16, 4, ["t"], ["u1", "u2"])
    assert sorted(_ids(split.train + split.val)) == sorted(_ids(LABELLED))


def test_same_seed_same_split_whatever_the_order() -> None:
    split = split_cases(LABELLED, seed=3)

    assert split_cases(LABELLED[::-1], seed=3) == split
    assert split_cases(LABELLED, seed=4) != split


def test_a_new_case_leaves_the_order_of_the_others() -> None:
    before = split_cases(LABELLED, seed=0)
    after = split_cases([*LABELLED, _case("new")], seed=0)

    assert len(set(_ids(before.val)) - set(_ids(after.val))) <= 1


def test_patients_stay_together() -> None:
    split = split_cases(LABELLED, val_fraction=0.3, patient=r"^(p\d+)_")

    patients = [{i.split("_")[0] for i in _ids(part)} for part in (split.train, split.val)]
    assert not patients[0] & patients[1]
    assert len(split.val) == 6
    alone = split_cases(LABELLED, val_fraction=0.3)
    assert {i.split("_")[0] for i in _ids(alone.train)} & {i.split("_")[0] for i in _ids(alone.val)}


def test_fewer_labels_are_a_subset_and_the_rest_becomes_unlabelled() -> None:
    full = split_cases(LABELLED + OTHERS)
    half = split_cases(LABELLED + OTHERS, label_fraction=0.5)
    one = split_cases(LABELLED + OTHERS, label_fraction=0.001)

    assert (len(half.train), len(one.train)) == (8, 1)
    assert set(_ids(one.train)) < set(_ids(half.train)) < set(_ids(full.train))
    assert half.val == full.val == one.val
    assert set(_ids(half.unlabelled)) == {"u1", "u2"} | (set(_ids(full.train)) - set(_ids(half.train)))


def test_smallest_splits() -> None:
    two = split_cases(LABELLED[:2], val_fraction=0.9)
    assert (len(two.train), len(two.val)) == (1, 1)
    assert split_cases(OTHERS, val_fraction=0, min_train=0, min_val=0) == Split([], [], OTHERS[:1], OTHERS[1:])
    assert len(split_cases(LABELLED[:3], val_fraction=0, min_val=0).train) == 3


@pytest.mark.parametrize(
    ("n", "options", "message"),
    [
        (1, {}, r"labelled cases: 1 found, the split needs at least 2 \(1 to train, 1 to validate\)\. Add labelled"),
        (0, {}, "labelled cases: 0 found, the split needs at least 2"),
        (5, {"min_train": 4, "min_val": 2}, r"5 found, the split needs at least 6 \(4 to train, 2 to validate\)"),
        (2, {"patient": "^p0"}, "those of one patient stay together.* Add patients"),
        (4, {"patient": "("}, "is not a regular expression"),
        (4, {"val_fraction": 1.0}, "val_fraction: 1.0 given, at least 0 and below 1"),
        (4, {"label_fraction": 0}, "label_fraction: 0 given, above 0"),
    ],
)
def test_errors(n: int, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        split_cases(LABELLED[:n] + OTHERS, **options)


def test_scans_of_held_out_patients_are_nowhere_else() -> None:
    """A labelled and an unlabelled scan of the test patient, and an unlabelled one of every other patient."""
    test = [_case("p0_late", "test"), _case("p10_alone", "test")]
    unlabelled = [_case(f"p{i}_more", "unlabelled") for i in range(12)]
    split = split_cases(LABELLED + unlabelled + test, val_fraction=0.3, patient="^[^_]+")

    sides = [{i.split("_")[0] for i in _ids(part)} for part in (split.train, split.val, split.test)]
    assert sides[2] == {"p0", "p10"}
    assert len(set.union(*sides)) == sum(map(len, sides))
    assert {i.split("_")[0] for i in _ids(split.unlabelled)} == {f"p{i}" for i in range(12)} - sides[1] - sides[2]
    apart = split_cases(LABELLED + unlabelled + test, val_fraction=0.3)
    assert len(apart.train + apart.val) == 20
    assert len(apart.unlabelled) == 12


def test_folds_hold_every_case_once_and_patients_together() -> None:
    folds = split_folds(LABELLED, 3, patient="^[^_]+")
    assert sorted(i for fold in folds for i in _ids(fold)) == sorted(_ids(LABELLED))
    sides = [{i.split("_")[0] for i in _ids(fold)} for fold in folds]
    assert [len(side) for side in sides] == [4, 3, 3]
    assert len(set.union(*sides)) == 10
    assert split_folds(LABELLED[::-1], 3, patient="^[^_]+") == folds
    assert split_folds(LABELLED, 3, seed=1, patient="^[^_]+") != folds

"""What decides whether a stage runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.workflows import case_digest, cases_inside, file_digest


def test_links_in_a_dataset_belong_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / "a.nii.gz").write_bytes(b"x")
    (tmp_path / "ct").mkdir()
    link = tmp_path / "ct" / "a.nii.gz"
    link.symlink_to(tmp_path / "archive" / "a.nii.gz")
    case = [{"image": str(link)}]
    assert cases_inside(case, str(tmp_path / "ct"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cases_inside(case, "~/ct")
    monkeypatch.chdir(tmp_path)
    assert cases_inside([{"image": "ct/a.nii.gz"}], "./ct")


def test_cases_from_elsewhere_do_not(tmp_path: Path) -> None:
    assert not cases_inside([{"image": str(tmp_path / "studies" / "a.nii.gz")}], str(tmp_path / "ct"))
    assert not cases_inside([], str(tmp_path))


def test_digest_changes_with_the_cases_and_not_with_their_order() -> None:
    a, b, c = ({"case": name, "image": f"{name}.nii.gz"} for name in "abc")
    assert case_digest([a, b]) == case_digest([b, a]) != case_digest([a, c])
    assert case_digest([a, b]).startswith("2 cases")


def test_file_digest(tmp_path: Path) -> None:
    assert file_digest(str(tmp_path / "absent")) == "none"
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"2")
    assert file_digest(str(tmp_path / "a")) != file_digest(str(tmp_path / "b"))

"""The commands of ``python -m common``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from common.cli import check, info, phantoms, preview
from common.errors import InputError
from tests.bundles.discovery import NAMES, REPOSITORY
from tests.volumes import write_case


def test_info_lists_every_bundle_without_importing_torch() -> None:
    code = "import sys; from common.cli import info; print(info()); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    for name in NAMES:
        assert name in done.stdout


def test_info_elsewhere_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--bundles_dir"):
        info(str(tmp_path))


def test_check_describes_a_good_folder(phantom_dir: Path) -> None:
    text = check(str(phantom_dir), spacing=(6, 6, 6))
    assert "phantom_2000" in text
    assert "MiB" in text


def test_check_names_every_bad_file_and_fails(phantom_dir: Path, tmp_path: Path) -> None:
    good = next((phantom_dir / "imagesUn").glob("*.nii.gz"))
    for name, content in (("a.nii.gz", good.read_bytes()), ("b.nii.gz", b"no"), ("c.nii.gz", b"")):
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match="2 files would fail") as caught:
        check(str(tmp_path))
    assert "b.nii.gz" in str(caught.value)
    assert "c.nii.gz" in str(caught.value)


def test_check_knows_the_ids_that_training_knows(tmp_path: Path) -> None:
    """Without a dataset.json these are the ids of ``structures``, by default those of the bundles."""
    write_case(tmp_path, "a.nii.gz", "labels/a.nii.gz", ids=(3, 13))
    write_case(tmp_path, "b.nii.gz", "labels/b.nii.gz", ids=(90,))
    for structures, unknown in ((None, ["13", "90"]), ({"heart": 3, "kidney": 13}, ["90"])):
        with pytest.raises(InputError, match=f"{len(unknown)} files would fail") as caught:
            check(str(tmp_path), structures=structures)
        for i in unknown:
            assert f"unknown label ids {i} " in str(caught.value)
    assert "No file would fail" in check(str(tmp_path), structures={"heart": 3, "kidney": 13, "other": 90})


def test_check_refuses_structures_that_training_refuses(tmp_path: Path) -> None:
    write_case(tmp_path, "a.nii.gz", "labels/a.nii.gz", ids=(1, 2))
    (tmp_path / "dataset.json").write_text('{"labels": {"1": "cancer", "2": "cyst"}}')
    with pytest.raises(InputError, match=r"calls it 'cancer'(.|\n)*training would refuse"):
        check(str(tmp_path))
    assert "No file would fail" in check(str(tmp_path), structures={"cancer": 1})  # id 2 is in dataset.json


def test_check_takes_structures_from_the_command_line(tmp_path: Path) -> None:
    write_case(tmp_path, "a.nii.gz", "labels/a.nii.gz", ids=(90,))
    for text, code in (("{'other': 90}", 0), ("{'other': 'x'}", 1), ("other", 1)):
        words = [sys.executable, "-m", "common", "check", str(tmp_path), "--structures", text]
        done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        assert (code == 0) == ("No file would fail" in done.stdout)
        assert (code == 1) == ("error: structures: " in done.stderr)


def test_errors_end_with_one_line_and_exit_code(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "common", "check", str(tmp_path / "nothing")]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_phantoms_and_preview(tmp_path: Path) -> None:
    phantoms(str(tmp_path / "p"), n_unlabelled=0, n_labelled=1, n_test=0)
    image = next((tmp_path / "p" / "imagesTr").glob("*.nii.gz"))
    out = tmp_path / "picture.png"
    assert preview(str(image), str(tmp_path / "p" / "labelsTr" / image.name), str(out)) == str(out)
    assert out.read_bytes().startswith(b"\x89PNG")

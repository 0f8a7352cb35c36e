"""The commands of ``python -m common``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from common.cli import check, info, phantoms, preview
from common.errors import InputError
from tests.bundles.discovery import NAMES, REPOSITORY


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

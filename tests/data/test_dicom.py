from __future__ import annotations

from pathlib import Path

from common.data.dicom import check_series, is_dicom_file, is_dicom_folder
from tests.volumes import ct_array, write_dicom


def test_dicom_is_known_by_its_magic_word_or_suffix(tmp_path: Path) -> None:
    folder = write_dicom(tmp_path / "series", ct_array((4, 4, 2)))
    (folder / "000.dcm").rename(folder / "IM0")
    (tmp_path / "DICOMDIR").write_bytes((folder / "IM0").read_bytes())
    (tmp_path / "text").write_text("x" * 200)

    assert is_dicom_file(folder / "IM0")
    assert is_dicom_file(folder / "001.dcm")
    assert not is_dicom_file(tmp_path / "DICOMDIR")
    assert not is_dicom_file(tmp_path / "text")
    assert is_dicom_folder(folder)
    assert not is_dicom_folder(tmp_path)


def test_positions_rounded_to_a_tenth_of_a_millimetre_are_regular(tmp_path: Path) -> None:
    heights = [round(k * 0.625, 1) for k in range(8)]

    shape, affine = check_series(write_dicom(tmp_path / "s", ct_array(), spacing=(1, 1, 0.625), heights=heights))

    assert shape == (12, 10, 8)
    assert abs(affine[2, 2] - heights[-1] / 7) < 1e-9


def test_other_files_beside_the_series_do_not_disturb(tmp_path: Path) -> None:
    folder = write_dicom(tmp_path / "series", ct_array())
    (folder / "notes.txt").write_text("x" * 500)
    (folder / "report").write_bytes(bytes(128) + b"DICM" + bytes(300))  # DICOM, but not a CT image

    assert check_series(folder)[0] == (12, 10, 8)

"""Masks in files: the input's header, complete or absent."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import LoadImaged, SaveImage, SaveImaged

from common.data.cases import find_cases
from common.data.datalist import inference_items
from common.data.mask_writer import CaseLayout, MaskWriter, ProbabilityWriter
from common.errors import InputError, input_error_message
from common.evaluation import evaluate_masks
from tests.volumes import label_array, write_case

AFFINE = np.array([[-0.7, 0.1, 0.2, 11], [0.12, 0.71, -0.3, 7], [0.05, 0.2, 2.4, -90], [0, 0, 0, 1]])


def saver(folder: Path, **options: Any) -> SaveImaged:
    arguments: dict[str, Any] = {
        "keys": "pred",
        "writer": MaskWriter,
        "folder_layout": CaseLayout(folder, "seg"),
        "output_dtype": "uint8",
        "resample": False,
        "print_log": False,
    }
    return SaveImaged(**{**arguments, **options})


def loaded(path: Path) -> dict[str, Any]:
    return LoadImaged(keys="image", ensure_channel_first=True)({"image": str(path)})


def with_mask(data: dict[str, Any], mask: np.ndarray) -> dict[str, Any]:
    return {**data, "pred": MetaTensor(torch.from_numpy(mask)[None], meta=data["image"].meta)}


@pytest.fixture
def mask() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 25, (6, 5, 4), dtype=np.uint8)


GEOMETRY = ("pixdim", "qform_code", "sform_code", "srow_x", "srow_y", "srow_z", "xyzt_units")
QUATERNION = ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z")


@pytest.mark.parametrize("codes", [(1, 1), (2, 0), (0, 3), (4, 2), (0, 0)])
@pytest.mark.parametrize("kind", ["nii.gz", "nii", "big-endian", "nifti-2"])
def test_header_is_the_inputs(tmp_path: Path, mask: np.ndarray, codes: tuple[int, int], kind: str) -> None:
    image_class = nib.Nifti2Image if kind == "nifti-2" else nib.Nifti1Image
    endian = ">" if kind == "big-endian" else "<"
    header = image_class.header_class(endianness=endian)
    image = image_class(np.zeros(mask.shape, np.int16), None, header)
    image.header.set_qform(AFFINE, code=codes[0])
    image.header.set_sform(AFFINE if codes[1] else None, code=codes[1])
    image.header.set_zooms((0.7, 0.75, 2.5))
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_slope_inter(2.0, -1024)
    image.header["descrip"] = b"somebody's name"
    path = tmp_path / f"scan.{'nii' if kind == 'nii' else 'nii.gz'}"
    nib.save(image, path)

    saver(tmp_path / "out")(with_mask(loaded(path), mask))

    source, written = nib.load(path), nib.load(tmp_path / "out/scan_seg.nii.gz")
    for field in GEOMETRY + QUATERNION:
        assert np.array_equal(written.header[field], source.header[field]), field
    assert np.array_equal(written.affine, source.affine)
    assert written.header.get_data_dtype() == np.uint8
    assert np.array_equal(np.asarray(written.dataobj), mask)
    assert written.dataobj.slope == 1
    assert written.header["descrip"].item() == b""
    assert type(written) is type(source)


def test_after_dicom_both_forms_hold_the_affine(tmp_path: Path, mask: np.ndarray) -> None:
    affine = np.diag([-0.5, -0.5, 3.0, 1])
    meta = {"filename_or_obj": str(tmp_path / "1.2.840.17"), "original_affine": affine}
    saver(tmp_path)({"pred": MetaTensor(torch.from_numpy(mask)[None], affine=torch.as_tensor(affine), meta=meta)})
    written = nib.load(tmp_path / "1.2.840.17_seg.nii.gz")
    assert np.array_equal(written.get_sform(coded=True)[0], affine)
    assert np.allclose(written.get_qform(coded=True)[0], affine)
    assert written.header.get_xyzt_units()[0] == "mm"


@pytest.mark.parametrize("shape", [(6, 5, 1), (1, 5, 1), (3, 4, 5)])
def test_shape_is_the_inputs_also_for_one_slice(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    nib.save(nib.Nifti1Image(np.zeros(shape, np.int16), np.eye(4)), tmp_path / "a.nii.gz")
    saver(tmp_path)(with_mask(loaded(tmp_path / "a.nii.gz"), np.ones(shape, np.uint8)))
    assert nib.load(tmp_path / "a_seg.nii.gz").shape == shape


def test_mask_on_another_grid_keeps_its_own_affine(tmp_path: Path, mask: np.ndarray) -> None:
    nib.save(nib.Nifti1Image(np.zeros((12, 10, 8), np.int16), np.eye(4)), tmp_path / "a.nii.gz")
    data = with_mask(loaded(tmp_path / "a.nii.gz"), mask)
    data["pred"].affine = torch.diag(torch.tensor([2.0, 2, 2, 1], dtype=torch.float64))
    saver(tmp_path)(data)
    assert np.array_equal(nib.load(tmp_path / "a_seg.nii.gz").affine, np.diag([2.0, 2, 2, 1]))


@pytest.mark.parametrize("there_before", [False, True])
def test_full_disk_leaves_nothing_half_written(
    tmp_path: Path, mask: np.ndarray, monkeypatch: pytest.MonkeyPatch, there_before: bool
) -> None:
    nib.save(nib.Nifti1Image(np.zeros(mask.shape, np.int16), np.eye(4)), tmp_path / "a.nii.gz")
    out = tmp_path / "out"
    out.mkdir()
    if there_before:
        (out / "a_seg.nii.gz").write_bytes(b"earlier result")
    attempts = []

    def save(_: nib.Nifti1Image, path: Path) -> None:
        attempts.append(Path(path))
        Path(path).write_bytes(b"half a file")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(nib, "save", save)
    with pytest.raises(RuntimeError) as raised:
        saver(out)(with_mask(loaded(tmp_path / "a.nii.gz"), mask))
    message = input_error_message(raised.value)
    assert message is not None
    assert "a_seg.nii.gz" in message
    assert "No space left" in message
    assert attempts[0].parent == out
    assert attempts[0].name.endswith(".nii.gz")
    assert [p.name for p in out.iterdir()] == (["a_seg.nii.gz"] if there_before else [])
    if there_before:
        assert (out / "a_seg.nii.gz").read_bytes() == b"earlier result"


def test_values_that_are_no_ids_are_refused() -> None:
    writer = MaskWriter(output_dtype=np.uint8)
    writer.set_data_array(np.array([[[[0.5, 300.0]]]]))
    writer.set_metadata({})
    with pytest.raises(ValueError, match="structure ids"):
        writer.write("never.nii.gz")
    assert not Path("never.nii.gz").exists()
    with pytest.raises(ValueError, match="resample"):
        writer.set_metadata({}, resample=True)


def test_input_that_has_gone_is_named(tmp_path: Path, mask: np.ndarray) -> None:
    nib.save(nib.Nifti1Image(np.zeros(mask.shape, np.int16), np.eye(4)), tmp_path / "a.nii.gz")
    data = with_mask(loaded(tmp_path / "a.nii.gz"), mask)
    (tmp_path / "a.nii.gz").unlink()
    writer = MaskWriter()
    writer.set_data_array(data["pred"])
    writer.set_metadata(data["pred"].meta)
    with pytest.raises(InputError, match=r"a\.nii\.gz: cannot be read any more"):
        writer.write(tmp_path / "a_seg.nii.gz")


def test_probabilities_on_the_networks_grid(tmp_path: Path) -> None:
    scores = 3 * torch.randn(4, 5, 6, 3, generator=torch.Generator().manual_seed(0))
    affine = torch.diag(torch.tensor([2.0, 2, 3, 1], dtype=torch.float64))
    meta = {"filename_or_obj": "a.nii.gz", "original_affine": np.eye(4), "spatial_shape": np.array([10, 12, 9])}
    save = SaveImage(
        writer=ProbabilityWriter,
        folder_layout=CaseLayout(tmp_path, "prob"),
        output_dtype="uint8",
        resample=False,
        print_log=False,
    )
    save(MetaTensor(scores, affine=affine, meta=meta))
    written = nib.load(tmp_path / "a_prob.nii.gz")
    assert written.shape == (5, 6, 3, 4)
    assert written.get_data_dtype() == np.uint8
    assert np.array_equal(written.affine, affine.numpy())
    expected = scores.softmax(0).movedim(0, -1).numpy()
    assert np.abs(written.get_fdata() - expected).max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize(
    ("path", "name"),
    [("d/a.b.nii.gz", "a.b"), ("x.nii", "x"), ("s/1.2.840.17", "1.2.840.17"), ("series/", "series")],
)
def test_file_names(tmp_path: Path, path: str, name: str) -> None:
    assert CaseLayout(tmp_path, "seg").filename(subject=path) == str(tmp_path / f"{name}_seg.nii.gz")
    assert CaseLayout(tmp_path, "seg").filename(subject=path, idx=3) == str(tmp_path / f"{name}_seg_3.nii.gz")


def test_file_names_are_those_of_the_cases(tmp_path: Path) -> None:
    """nnU-Net's ``_0000`` goes where every volume of the folder has it, as in :func:`find_cases`."""
    layout = CaseLayout(tmp_path / "out", "seg")
    for folder, names in (("nnunet", ["x_0000", "y_0000"]), ("numbered", ["scan_0000", "scan_0001"])):
        for name in names:
            write_case(tmp_path / folder, f"{name}.nii.gz")
        for case in find_cases(tmp_path / folder):
            assert Path(layout.filename(subject=case.image)).name == f"{case.id}_seg.nii.gz"
            assert inference_items(case.image)[0]["case"] == case.id
    assert Path(layout.filename(subject=tmp_path / "nnunet/x_0000.nii.gz")).name == "x_seg.nii.gz"
    assert Path(layout.filename(subject=tmp_path / "numbered/scan_0000.nii.gz")).name == "scan_0000_seg.nii.gz"


def test_a_mask_of_an_nnunet_image_is_found_for_its_label(tmp_path: Path) -> None:
    write_case(tmp_path, "imagesTr/x_0000.nii.gz", "labelsTr/x.nii.gz", ids=(1, 2))
    path = tmp_path / "imagesTr/x_0000.nii.gz"
    saver(tmp_path / "masks")(with_mask(loaded(path), label_array(ids=(1, 2))))
    report = evaluate_masks(
        tmp_path / "masks", tmp_path / "labelsTr", structures={"a": 1, "b": 2}, output_dir=tmp_path / "out"
    )
    assert list(report["cases"]) == ["x"]
    assert report["structures"]["a"]["dsc"]["mean"] == 1

"""New volumes in, masks on their own grid out."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from common.errors import input_error_message
from tests.bundles.discovery import NAMES, config
from tests.bundles.running import run
from tests.volumes import write_dicom

pytestmark = pytest.mark.parametrize("name", NAMES)


def rotation(degrees: float) -> np.ndarray:
    a = np.deg2rad(degrees)
    return np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])


def write(path: Path, hu: np.ndarray, affine: np.ndarray, dtype: str = "int16", slope: float = 1.0) -> None:
    image = nib.Nifti1Image((hu / slope).astype(dtype), affine)
    image.header.set_slope_inter(slope, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)


@pytest.fixture
def volumes(phantom_dir: Path, tmp_path: Path) -> Path:
    """One phantom as scanners and tools may write it: LPS, permuted, oblique, anisotropic, float, scaled, tiny."""
    source = nib.load(next((phantom_dir / "imagesTs").glob("*.nii.gz")))
    hu, affine = np.asarray(source.dataobj).astype(np.float32), source.affine
    folder = tmp_path / "volumes"
    lps = affine @ np.diag([-1, -1, 1, 1])
    lps[:3, 3] = affine[:3, :3] @ [hu.shape[0] - 1, hu.shape[1] - 1, 0] + affine[:3, 3]
    write(folder / "lps.nii.gz", hu[::-1, ::-1], lps)
    write(folder / "permuted.nii.gz", hu.transpose(2, 0, 1), affine[:, [2, 0, 1, 3]])
    oblique = affine.copy()
    oblique[:3, :3] = rotation(11.0) @ affine[:3, :3]
    write(folder / "oblique.nii", hu, oblique)
    write(folder / "anisotropic.nii.gz", hu[:, :, ::3], affine @ np.diag([1, 1, 3, 1]))
    write(folder / "float.nii.gz", hu, affine, "float32")
    write(folder / "scaled.nii.gz", hu, affine, "int16", slope=0.5)
    write(folder / "smaller_than_the_window.nii.gz", hu[:20, :17, :9], affine)
    return folder


def test_masks_lie_on_the_inputs_grid(name: str, trained: dict[str, Path], volumes: Path, tmp_path: Path) -> None:
    out = tmp_path / "masks"
    run(trained[name], "inference", dataset_dir=str(volumes), output_dir=str(out), preview=False)
    ids = {0, *config(name, "train")["structures"].values()}
    files = sorted(volumes.iterdir())
    assert len(list(out.iterdir())) == len(files) == 7
    for file in files:
        image = nib.load(file)
        mask = nib.load(out / f"{file.name.split('.')[0]}_seg.nii.gz")
        assert mask.get_data_dtype() == np.uint8
        assert mask.shape == image.shape
        assert np.array_equal(mask.affine, image.affine)
        assert set(np.unique(mask.dataobj)) <= ids


def test_a_dicom_series_is_segmented_like_its_nifti_twin(
    name: str, trained: dict[str, Path], phantom_dir: Path, tmp_path: Path
) -> None:
    source = nib.load(next((phantom_dir / "imagesTs").glob("*.nii.gz")))
    hu = np.asarray(source.dataobj).astype(np.int16)
    spacing = tuple(float(s) for s in source.header.get_zooms())
    series = write_dicom(tmp_path / "in" / "series", hu, spacing=spacing)
    run(trained[name], "inference", dataset_dir=str(series), output_dir=str(tmp_path / "out"), preview=False)
    mask = nib.load(tmp_path / "out" / "series_seg.nii.gz")
    twin = nib.Nifti1Image(hu, mask.affine)
    nib.save(twin, tmp_path / "twin.nii.gz")
    run(
        trained[name],
        "inference",
        dataset_dir=str(tmp_path / "twin.nii.gz"),
        output_dir=str(tmp_path / "out"),
        preview=False,
    )
    as_nifti = nib.load(tmp_path / "out" / "twin_seg.nii.gz")
    # the two files hold the axes in opposite directions, so compare in the patient's coordinates
    mask, as_nifti = (nib.as_closest_canonical(m) for m in (mask, as_nifti))
    assert mask.shape == as_nifti.shape
    assert np.array_equal(np.asarray(mask.dataobj), np.asarray(as_nifti.dataobj))


def test_orientation_does_not_change_the_mask(
    name: str, trained: dict[str, Path], volumes: Path, tmp_path: Path
) -> None:
    """The same anatomy stored in another order gets the same labels in the patient's coordinates."""
    out = tmp_path / "masks"
    run(trained[name], "inference", dataset_dir=str(volumes), output_dir=str(out), preview=False)
    masks = {n: np.asarray(nib.load(out / f"{n}_seg.nii.gz").dataobj) for n in ("float", "lps", "permuted", "scaled")}
    assert np.array_equal(masks["lps"][::-1, ::-1], masks["float"])
    assert np.array_equal(masks["permuted"].transpose(1, 2, 0), masks["float"])
    assert (masks["scaled"] == masks["float"]).mean() > 0.99


def test_a_bad_volume_does_not_stop_the_others(
    name: str, trained: dict[str, Path], phantom_dir: Path, tmp_path: Path
) -> None:
    folder, out = tmp_path / "mixed", tmp_path / "masks"
    good = next((phantom_dir / "imagesTs").glob("*.nii.gz"))
    folder.mkdir()
    (folder / "a_truncated.nii.gz").write_bytes(good.read_bytes()[:2000])
    (folder / "b_good.nii.gz").write_bytes(good.read_bytes())
    with pytest.raises(Exception, match=r".") as caught:
        run(trained[name], "inference", dataset_dir=str(folder), output_dir=str(out))
    message = input_error_message(caught.value) or ""
    assert "a_truncated.nii.gz" in message
    assert "1 of 2" in message
    assert sorted(p.name for p in out.iterdir()) == ["b_good_preview.png", "b_good_seg.nii.gz"]


def test_probabilities_on_request(name: str, trained: dict[str, Path], phantom_dir: Path, tmp_path: Path) -> None:
    run(
        trained[name],
        "inference",
        dataset_dir=str(phantom_dir / "imagesTs"),
        output_dir=str(tmp_path),
        probabilities=True,
        preview=False,
    )
    file = next(tmp_path.glob("*_prob.nii.gz"))
    probabilities = np.asarray(nib.load(file).dataobj)
    assert probabilities.shape[-1] == len(config(name, "train")["structures"]) + 1
    np.testing.assert_allclose(probabilities.sum(-1), 1, atol=0.02)


def test_no_checkpoint_is_one_clear_error(name: str, phantom_dir: Path, tmp_path: Path) -> None:
    from tests.bundles.running import copy_bundle

    root = copy_bundle(name, tmp_path)
    with pytest.raises(Exception, match=r".") as caught:
        run(root, "inference", dataset_dir=str(phantom_dir / "imagesTs"))
    message = input_error_message(caught.value) or ""
    assert "model.pt" in message
    assert "train.json" in message


def test_a_model_trained_otherwise_is_refused_by_name(name: str, trained: dict[str, Path], phantom_dir: Path) -> None:
    with pytest.raises(Exception, match=r".") as caught:
        run(trained[name], "inference", dataset_dir=str(phantom_dir / "imagesTs"), spacing=[4.0, 4.0, 4.0])
    message = input_error_message(caught.value) or ""
    assert "spacing" in message


def test_evaluation_writes_metrics(name: str, trained: dict[str, Path], phantom_dir: Path, tmp_path: Path) -> None:
    run(
        trained[name],
        "train",
        "evaluate",
        dataset_dir=str(phantom_dir),
        section="test",
        output_dir=str(tmp_path),
    )
    structures = config(name, "train")["structures"]
    with open(tmp_path / "metrics.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["structure"] for row in rows} == set(structures)
    summary = json.loads((tmp_path / "metrics.json").read_text())
    assert set(structures) <= set(summary["structures"])

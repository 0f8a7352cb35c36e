"""Masks return to exactly the grid of the input file."""

from __future__ import annotations

import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, LoadImaged, Orientationd, SpatialCropd, SpatialPadd
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from common.data.headers import check_header
from common.errors import InputError
from common.transforms.restore import RestoreGridd, axis_tables, restore_grid
from common.transforms.spacing import SafeSpacingd

ORIENTATIONS = ["".join(codes) for p in itertools.permutations(["RL", "AP", "SI"]) for codes in itertools.product(*p)]


def labels(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    """Smooth random regions 0 to 3."""
    rng = np.random.default_rng(seed)
    return np.argmax([gaussian_filter(rng.normal(size=shape), 2) for _ in range(4)], 0).astype(np.uint8)


def oblique(spacing: tuple[float, float, float]) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", [10, -15, 20], degrees=True).as_matrix() @ np.diag(spacing)
    affine[:3, 3] = [10, -20, 33]
    return affine


def write(path: Path, volume: np.ndarray, affine: np.ndarray) -> str:
    nib.save(nib.Nifti1Image(volume, affine), path)
    return str(path)


def preprocessing(pixdim: tuple[float, float, float]) -> Compose:
    return Compose(
        [
            LoadImaged(keys="image", ensure_channel_first=True),
            Orientationd(keys="image", axcodes="RAS", labels=None),
            SafeSpacingd(keys="image", pixdim=pixdim, mode="nearest"),
        ]
    )


def segment(data: dict) -> dict:
    """A network that returns its input."""
    image = data["image"]
    return {**data, "pred": MetaTensor(image.as_tensor().to(torch.uint8), meta=image.meta)}


def test_all_48_orientations_come_back_exactly(tmp_path: Path) -> None:
    assert len(set(ORIENTATIONS)) == 48
    volume = labels((9, 7, 5))
    ras = nib.Nifti1Image(volume, np.diag([1.5, 2.0, 3.0, 1]))
    for codes in ORIENTATIONS:
        transform = nib.orientations.ornt_transform(
            nib.orientations.io_orientation(ras.affine), nib.orientations.axcodes2ornt(codes)
        )
        image = ras.as_reoriented(transform)
        assert "".join(nib.aff2axcodes(image.affine)) == codes
        path = tmp_path / f"{codes}.nii.gz"
        nib.save(image, path)
        data = segment(preprocessing((-1, -1, -1))({"image": str(path)}))
        assert nib.aff2axcodes(data["pred"].affine.numpy()) == ("R", "A", "S")
        pred = RestoreGridd()(data)["pred"]
        assert np.array_equal(pred[0].numpy(), np.asarray(image.dataobj)), codes
        assert np.array_equal(pred.affine.numpy(), nib.load(path).affine), codes


@pytest.mark.parametrize("codes", ["RAS", "LPS", "SAR", "IPL", "ASL"])
def test_orientation_does_not_change_the_result(codes: str) -> None:
    """Resampled masks: the same patient, stored in another order, gets the same mask."""
    pred = torch.from_numpy(labels((8, 10, 6)))[None]
    pred_affine = np.diag([2.0, 2.0, 2.0, 1])
    ras = nib.Nifti1Image(np.zeros((16, 20, 12), np.uint8), np.eye(4))
    there = restore_grid(pred, pred_affine, ras.shape, ras.affine)
    transform = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(ras.affine), nib.orientations.axcodes2ornt(codes)
    )
    image = ras.as_reoriented(transform)
    result = restore_grid(pred, pred_affine, image.shape, image.affine)
    expected = nib.orientations.apply_orientation(there[0].numpy(), transform)
    assert np.array_equal(result[0].numpy(), expected)


@pytest.mark.parametrize(
    ("affine", "pixdim"),
    [
        (oblique((-0.8, 0.9, 2.5)), (1.5, 1.5, 1.5)),
        (oblique((0.9, -0.9, -5.0)), (1.3, 1.3, 1.7)),
        (np.diag([0.7, 0.7, 1.25, 1]), (1.5, 1.5, 3.0)),
        (np.diag([-3.0, 2.0, 1.0, 1]), (1.1, 1.1, 1.1)),
    ],
)
def test_agrees_with_invertd(tmp_path: Path, affine: np.ndarray, pixdim: tuple[float, float, float]) -> None:
    """Equal to MONAI's dense way back, except where a voxel lies in the middle between two of the mask."""
    volume = labels((30, 25, 18))
    transforms = preprocessing(pixdim)
    data = segment(transforms({"image": write(tmp_path / "a.nii.gz", volume, affine)}))
    pred = RestoreGridd()(data)["pred"]
    inverse = Invertd(keys="pred", transform=transforms, orig_keys="image", nearest_interp=True)
    data["pred"] = MetaTensor(data["pred"].as_tensor().float(), meta=data["pred"].meta)
    expected = inverse(data)["pred"]
    assert pred.shape == expected.shape == (1, *volume.shape)
    assert pred.dtype == torch.uint8

    to_pred = np.linalg.solve(data["image"].affine.numpy(), nib.load(tmp_path / "a.nii.gz").affine)
    places = np.einsum("ij,j...->i...", to_pred[:3, :3], np.indices(volume.shape)) + to_pred[:3, 3, None, None, None]
    tie = (np.abs(places - np.floor(places) - 0.5) < 2e-3).any(0)
    same = pred[0].numpy() == expected[0].numpy()
    assert same[~tie].all()
    assert (~tie).mean() > 0.5
    assert same.mean() > 0.95


def test_upsampled_masks_use_each_voxel_equally_often() -> None:
    tables = axis_tables((4, 4, 4), np.diag([2.0, 2, 2, 1]), (7, 7, 7), np.eye(4))
    assert [axis for axis, _ in tables] == [0, 1, 2]
    assert tables[0][1].tolist() == [0, 1, 1, 2, 2, 3, 3]


def test_outermost_voxels_are_not_lost() -> None:
    """5 mm slices whose mask, resampled to 1.7 mm, was centred on them and ends before the first slice's middle."""
    pred_affine = np.diag([1.0, 1, 1.7, 1])
    pred_affine[2, 3] = 1.65
    assert axis_tables((4, 4, 51), pred_affine, (4, 4, 18), np.diag([1.0, 1, 5, 1]))[2][1].tolist()[:2] == [0, 2]
    # one whole voxel away is outside
    pred_affine = np.eye(4)
    pred_affine[2, 3] = 1
    assert axis_tables((4, 4, 2), pred_affine, (4, 4, 4), np.eye(4))[2][1].tolist() == [-1, 0, 1, -1]


def test_cropped_and_padded(tmp_path: Path) -> None:
    """What preprocessing cut away is background, what it added is dropped."""
    volume = labels((12, 10, 8)) + 1
    path = write(tmp_path / "a.nii.gz", volume, np.diag([-1.0, -1.0, 2.0, 1]))
    transforms = Compose(
        [
            *preprocessing((-1, -1, -1)).transforms,
            SpatialCropd(keys="image", roi_start=(2, 3, 1), roi_end=(9, 10, 6)),
            SpatialPadd(keys="image", spatial_size=(7, 7, 20)),
        ]
    )
    data = segment(transforms({"image": path}))
    assert data["pred"].shape == (1, 7, 7, 20)
    pred = RestoreGridd(fill=0)(data)["pred"][0].numpy()
    # the file's first two axes run against RAS: RAS index 2..8 of 12 is file index 3..9, 3..9 of 10 is 0..6
    expected = np.zeros_like(volume)
    expected[3:10, 0:7, 1:6] = volume[3:10, 0:7, 1:6]
    assert np.array_equal(pred, expected)
    # along the last axis the padding has grown over what was cropped, so the network has seen background there
    expected_filled = np.full_like(volume, 9)
    expected_filled[3:10, 0:7] = expected[3:10, 0:7]
    assert np.array_equal(RestoreGridd(fill=9)(data)["pred"][0].numpy(), expected_filled)


def test_metadata_of_the_file_and_other_entries(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii.gz", labels((8, 8, 8)), oblique((1.0, 1.0, 2.0)))
    data = segment(preprocessing((1.5, 1.5, 1.5))({"image": path, "case": "a"}))
    result = RestoreGridd()(data)
    assert result["case"] == "a"
    assert result["pred"].meta["filename_or_obj"] == path
    assert np.array_equal(result["pred"].meta["original_affine"], nib.load(path).affine)
    assert np.array_equal(result["pred"].affine.numpy(), nib.load(path).affine)
    assert result["image"] is data["image"]
    # a plain tensor on the image's grid will do
    data["pred"] = data["pred"].as_tensor()
    assert torch.equal(RestoreGridd()(data)["pred"].as_tensor(), result["pred"].as_tensor())


def test_two_dimensions() -> None:
    pred = torch.arange(6, dtype=torch.uint8).reshape(1, 2, 3)
    result = restore_grid(pred, np.eye(3), (3, 2), np.array([[0, 1, 0], [-1, 0, 2], [0, 0, 1.0]]))
    # result[i, j] = pred[j, 2 - i]
    assert result.tolist() == [[[2, 5], [1, 4], [0, 3]]]


def test_sheared_grid_is_refused(tmp_path: Path) -> None:
    affine = np.eye(4)
    affine[1, 2] = 0.3  # gantry tilt
    path = write(tmp_path / "tilted.nii.gz", labels((10, 10, 10)), affine)
    data = segment(preprocessing((1.5, 1.5, 1.5))({"image": path}))
    with pytest.raises(InputError, match=r"tilted\.nii\.gz: .*gantry tilt.*Resample"):
        RestoreGridd()(data)


@pytest.mark.parametrize("spacing", [(0.5, 0.5, 0.5), (3.0, 3.0, 3.0)])
@pytest.mark.parametrize("columns", [(0, 1, 2), (2, 0, 1)])
def test_what_the_header_check_accepts_comes_back(
    tmp_path: Path, spacing: tuple[float, float, float], columns: tuple[int, ...]
) -> None:
    """Both measure shear in voxels of the file: 0.05 mm per row over 4.5 rows is 0.225 of a voxel of 1 mm."""
    for shear, accepted in ((0.05, True), (0.06, False)):
        affine = np.eye(4)
        affine[0, 1] = shear
        affine = affine[:, [*columns, 3]]
        path = write(tmp_path / "a.nii.gz", labels((10, 10, 10)), affine)
        data = segment(preprocessing(spacing)({"image": path}))
        if accepted:
            check_header(path)
            assert RestoreGridd()(data)["pred"].shape == (1, 10, 10, 10)
        else:
            with pytest.raises(InputError, match=r"a\.nii\.gz: sheared"):
                check_header(path)
            with pytest.raises(InputError, match="do not line up"):
                RestoreGridd()(data)


def test_oblique_slices_of_one_grid_are_refused() -> None:
    with pytest.raises(InputError, match="do not line up"):
        restore_grid(torch.zeros(1, 8, 8, 8), np.eye(4), (8, 8, 8), oblique((1, 1, 1)))


def test_shear_of_rounding_is_no_shear() -> None:
    pred = torch.from_numpy(labels((10, 10, 10)))[None]
    affine = np.eye(4)
    affine[0, 1] = 1e-4
    assert torch.equal(restore_grid(pred, affine, (10, 10, 10), np.eye(4)), pred)


def test_misuse_is_named(tmp_path: Path) -> None:
    data = segment(preprocessing((-1, -1, -1))({"image": write(tmp_path / "a.nii.gz", labels((6, 6, 6)), np.eye(4))}))
    with pytest.raises(ValueError, match="does not know its file's grid"):
        RestoreGridd()({**data, "image": data["image"].as_tensor()})
    with pytest.raises(ValueError, match="expected both on the network's grid"):
        RestoreGridd()({**data, "pred": data["pred"][:, 1:]})
    with pytest.raises(ValueError, match="spatial axes"):
        restore_grid(torch.zeros(4, 4, 4), np.eye(4), (4, 4, 4), np.eye(4))

"""The way of a volume to the network, and of a training crop."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import CacheDataset, MetaTensor
from monai.transforms import MapTransform, RandFlipd
from torch.utils.data import default_collate

from common.data.datalist import training_items
from common.data.structures import CHEST_STRUCTURES
from common.masking.enclosed import CERTAIN_BACKGROUND
from common.recipes import (
    AIR_HU,
    BODY_HU,
    cached_volume,
    chain,
    in_body,
    preprocessing,
    random_crops,
    to_input_grid,
    whole_volume,
)
from common.transforms.chest_channels import ChestChannelsd
from tests.largest import Largest

SPACING = (6.0, 6.0, 6.0)


@pytest.fixture(scope="module")
def items(phantom_dir: Path) -> list[dict]:
    return training_items(phantom_dir, structures=CHEST_STRUCTURES, val_fraction=0.34)


def channels() -> MapTransform:
    return ChestChannelsd(keys="image")


def test_volume_arrives_as_ras_on_the_wanted_grid(items: list[dict]) -> None:
    data = preprocessing(spacing=(5.0, 6.0, 7.0), channels=channels())({"image": items[0]["image"]})
    image = data["image"]
    assert image.shape[0] == 3
    assert float(image.min()) >= 0
    assert float(image.max()) <= 1
    np.testing.assert_allclose(np.diag(image.affine)[:3], (5, 6, 7))


def in_wide_air(tmp_path: Path) -> str:
    """A body of 10 x 10 x 16 voxels in the middle of 40 x 40 x 16."""
    hu = np.full((40, 40, 16), -1000, dtype=np.int16)
    hu[15:25, 12:22] = 40
    nib.save(nib.Nifti1Image(hu, np.diag([6.0, 6.0, 6.0, 1.0])), tmp_path / "wide.nii.gz")
    return str(tmp_path / "wide.nii.gz")


def test_training_and_inference_see_the_box_around_the_body_only(tmp_path: Path) -> None:
    """Far air that no training crop holds is not shown to the trained network either."""
    path = in_wide_air(tmp_path)
    seen = preprocessing(spacing=SPACING)({"image": path})["image"]
    assert seen.shape == (1, 18, 18, 16)  # four voxels more on every side where there are any
    trained_on = cached_volume(spacing=SPACING, roi_size=(8, 8, 8))({"image": path})["image"]
    assert trained_on.shape == seen.shape


def test_whole_volumes_have_one_size_with_the_body_in_the_middle(tmp_path: Path) -> None:
    path = in_wide_air(tmp_path)  # the box around the body is 18 x 18 x 16
    image = whole_volume(spacing=SPACING, size=(12, 20, 8))({"image": path, "case": "wide"})["image"]
    assert not isinstance(image, MetaTensor)
    assert image.dtype == torch.int16
    assert image.shape == (1, 12, 20, 8)
    expected = torch.full((12, 20, 8), -1000)
    expected[1:11, 5:15] = 40
    expected[:, [0, -1]] = int(AIR_HU)
    assert torch.equal(image[0].int(), expected.int())
    turned = whole_volume(spacing=SPACING, size=(12, 20, 8), turned=True)({"image": path})["image"]
    assert turned.shape == (1, 15, 25, 10)


def test_volumes_for_a_2d_network_stay_volumes_and_shift_a_little() -> None:
    crops = random_crops(
        roi_size=(16, 8, 4), spatial_dims=2, channels=channels(), rotate_degrees=0, scale=0, shift=2.0, noise_hu=0
    )
    hu = torch.full((1, 20, 10, 5), -1000, dtype=torch.int16)
    hu[:, 8:12] = 40
    crops.set_random_state(seed=0)
    made = [crops({"image": hu})["image"] for _ in range(20)]
    assert {tuple(image.shape) for image in made} == {(3, 16, 8, 4)}
    weights = torch.stack([image[1].mean((1, 2)) for image in made])
    centres = (weights * torch.arange(16)).sum(1) / weights.sum(1) - 7.5
    assert centres.abs().max() <= 2.01
    assert centres.abs().max() > 0.5


def test_what_was_cut_away_comes_back_as_background(tmp_path: Path) -> None:
    path = in_wide_air(tmp_path)
    data = preprocessing(spacing=SPACING)({"image": path})
    scores = torch.zeros(2, *data["image"].shape[1:])
    scores[1] = 1  # everything the network sees is heart
    data["pred"] = MetaTensor(scores, meta=data["image"].meta)
    mask = to_input_grid(structures={"heart": 3})(data)["pred"][0].numpy()
    expected = np.zeros((40, 40, 16), np.uint8)
    expected[11:29, 8:26] = 3
    assert np.array_equal(mask, expected)


def test_nothing_but_the_mask_is_as_large_as_the_file(tmp_path: Path) -> None:
    hu = np.full((60, 50, 40), 40, dtype=np.int16)
    hu[0] = -1000
    nib.save(nib.Nifti1Image(hu, np.diag([1.0, 1.0, 1.0, 1.0])), tmp_path / "fine.nii.gz")
    data = preprocessing(spacing=SPACING)({"image": str(tmp_path / "fine.nii.gz")})
    data["pred"] = MetaTensor(torch.ones(1, *data["image"].shape[1:], dtype=torch.uint8), meta=data["image"].meta)
    with Largest() as largest:
        mask = to_input_grid(structures={"heart": 3})(data)["pred"]
    assert (mask == 3).all()
    assert largest.bytes == mask.numel() == hu.size


def test_islands_in_the_air_are_not_in_the_mask(tmp_path: Path) -> None:
    path = in_wide_air(tmp_path)
    data = preprocessing(spacing=SPACING, channels=channels())({"image": path})
    scores = torch.zeros(2, *data["image"].shape[1:])
    scores[1] = 1
    data["pred"] = MetaTensor(scores, meta=data["image"].meta)
    mask = to_input_grid(structures={"heart": 3})(data)["pred"][0].numpy()
    expected = np.zeros((40, 40, 16), np.uint8)
    expected[15:25, 12:22] = 3
    assert np.array_equal(mask, expected)


def test_a_volume_without_a_body_stays_whole() -> None:
    """Volume checks refuse such files; what reaches this one is an image that another program hands over."""
    assert in_body(torch.full((1, 4, 4, 4), -800.0)).all()


def test_cached_volumes_are_small_integers_without_metadata(items: list[dict]) -> None:
    data = cached_volume(spacing=SPACING, roi_size=(32, 32, 32), structures=CHEST_STRUCTURES)(items[0])
    assert data["image"].dtype is torch.int16
    assert data["label"].dtype is torch.uint8
    assert type(data["image"]) is torch.Tensor
    assert data["annotated"].all()
    known = data["label"] != CERTAIN_BACKGROUND
    assert int(data["label"][known].max()) == len(CHEST_STRUCTURES)  # tumor, id 24, is channel 13
    assert (data["image"][~known] <= BODY_HU).all()
    assert 0 < (~known).float().mean() < 0.5


def test_volumes_smaller_than_a_crop_are_padded_with_air(tmp_path: Path) -> None:
    hu = np.full((8, 8, 8), 40, dtype=np.int16)
    hu[0] = -900
    nib.save(nib.Nifti1Image(hu, np.diag([6.0, 6.0, 6.0, 1.0])), tmp_path / "small.nii.gz")
    data = cached_volume(spacing=SPACING, roi_size=(16, 16, 16))({"image": str(tmp_path / "small.nii.gz")})
    assert data["image"].shape == (1, 20, 20, 20)  # a fourth more than a crop: turned crops are cut out of it
    assert int(data["image"].min()) == AIR_HU


def test_crops_are_what_a_batch_needs(items: list[dict]) -> None:
    volume = cached_volume(spacing=SPACING, roi_size=(32, 32, 32), structures=CHEST_STRUCTURES)
    crops = random_crops(roi_size=(32, 32, 32), spatial_dims=3, channels=channels(), structures=CHEST_STRUCTURES)
    dataset = CacheDataset(items, chain(volume, crops), copy_cache=False, progress=False)
    before = dataset._cache[0]["image"].clone()
    crops_of_one = [dataset[0][0] for _ in range(12)]
    batch = default_collate([{k: c[k] for k in ("image", "label", "annotated")} for c in crops_of_one])
    assert batch["image"].shape == (12, 3, 32, 32, 32)
    assert batch["label"].shape == (12, 1, 32, 32, 32)
    assert batch["annotated"].shape == (12, len(CHEST_STRUCTURES) + 1)
    assert torch.equal(batch["label"], batch["label"].round())
    assert not torch.equal(batch["image"][0], batch["image"][1])
    assert torch.equal(before, dataset._cache[0]["image"])  # random transforms leave the cache alone


def test_half_of_the_crops_are_centred_on_structures(items: list[dict]) -> None:
    """The tumor, a handful of voxels, must be met about as often as the lungs: 1 in 2 x 13 crops."""
    volume = cached_volume(spacing=SPACING, roi_size=(16, 16, 16), structures=CHEST_STRUCTURES)
    crops = random_crops(
        roi_size=(16, 16, 16),
        spatial_dims=3,
        channels=channels(),
        structures=CHEST_STRUCTURES,
        rotate_degrees=0,
        scale=0,
    )
    crops.set_random_state(0)
    cached = volume(items[0])
    seen = [float((crops(dict(cached))[0]["label"] == len(CHEST_STRUCTURES)).any()) for _ in range(150)]
    share_of_volume = float((cached["label"] == len(CHEST_STRUCTURES)).float().mean())
    assert share_of_volume < 0.01
    assert np.mean(seen) > 0.04


def test_slices_for_a_2d_network(items: list[dict]) -> None:
    volume = cached_volume(spacing=(6.0, 6.0, -1.0), roi_size=(32, 32, 1), structures=CHEST_STRUCTURES)
    crops = random_crops(
        roi_size=(32, 32, 1), spatial_dims=2, channels=channels(), structures=CHEST_STRUCTURES, flip=True
    )
    crop = crops(volume(items[0]))[0]
    assert crop["image"].shape == (3, 32, 32)
    assert crop["label"].shape == (1, 32, 32)
    assert float(crop["image"][2].max()) > 0  # edges within the slice


def test_turned_crops_have_no_smeared_borders(items: list[dict]) -> None:
    """A turned crop is cut out of a larger one, so its outermost planes repeat no more than those inside."""
    volume = cached_volume(spacing=SPACING, roi_size=(24, 24, 24))
    cached = volume({"image": items[0]["image"]})
    crops = random_crops(
        roi_size=(24, 24, 24),
        spatial_dims=3,
        channels=Identity(keys="image"),
        scale=0.0,
        rotate_degrees=20.0,
        noise_hu=0,
    )
    crops.set_random_state(0)
    repeated = [
        bool((c[:, 0] == c[:, 1]).float().mean() > 0.3) for c in (crops(dict(cached))["image"] for _ in range(10))
    ]
    assert not any(repeated)


class Identity(MapTransform):
    def __call__(self, data: dict) -> dict:
        return data


def test_crops_are_mirrored_along_the_axes_given() -> None:
    for flip, mirrored in ((False, []), (True, [0, 1, 2]), ([2], [2]), ([], [])):
        crops = random_crops(roi_size=(8, 8, 8), spatial_dims=3, channels=channels(), flip=flip)
        assert [t.flipper.spatial_axis for t in crops.transforms if isinstance(t, RandFlipd)] == mirrored

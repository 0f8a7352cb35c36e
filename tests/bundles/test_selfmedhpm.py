"""What the bundle `selfmedhpm` has beyond the others: its variants, the abdominal setting, other crop sizes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from common.data.structures import ALL_STRUCTURES
from tests.bundles.discovery import BASE_CONFIGS, config
from tests.bundles.running import copy_bundle, run, weights

NAME = "selfmedhpm"
BTCV = {
    **{"spleen": 1, "kidney_right": 2, "kidney_left": 3, "gallbladder": 4, "esophagus": 5, "liver": 6, "stomach": 7},
    **{"aorta": 8, "inferior_vena_cava": 9, "portal_vein_and_splenic_vein": 10, "pancreas": 11},
    **{"adrenal_gland_right": 12, "adrenal_gland_left": 13},
}


def test_btcv_overlay_has_the_ids_of_its_label_files() -> None:
    overlay = config(NAME, "btcv")
    assert next(iter(overlay)) == "_summary_"
    assert overlay["structures"] == BTCV
    level, width = overlay["hu_window"]
    assert (level - width / 2, level + width / 2) == (-175, 250)
    assert overlay["spacing"] == [1.5, 1.5, 2.0]
    for base in BASE_CONFIGS:
        missing = set(overlay) - set(config(NAME, base)) - {"_summary_"}
        assert missing == ({"structures"} if base == "pretrain" else set())


@pytest.fixture
def abdomen_dir(phantom_dir: Path, tmp_path: Path) -> Path:
    """Phantoms whose labels have the ids of BTCV: aorta, esophagus, liver and spleen."""
    folder = tmp_path / "abdomen"
    shutil.copytree(phantom_dir, folder)
    (folder / "dataset.json").unlink()
    table = np.zeros(256, np.uint8)
    for name in BTCV.keys() & ALL_STRUCTURES.keys():
        table[ALL_STRUCTURES[name]] = BTCV[name]
    for path in folder.glob("labels*/*.nii.gz"):
        label = nib.load(path)
        nib.save(nib.Nifti1Image(table[np.asarray(label.dataobj)], label.affine), path)
    return folder


def test_btcv_setting_runs_from_training_to_masks(abdomen_dir: Path, phantom_dir: Path, tmp_path: Path) -> None:
    root = copy_bundle(NAME, tmp_path)
    run(root, "train", "btcv", dataset_dir=str(abdomen_dir), pretrain_epochs=1, epochs=1)
    card = torch.load(root / "models/model.pt", weights_only=True)["card"]
    assert card["structures"] == BTCV
    assert card["hu_window"] == [37.5, 425]
    out = tmp_path / "masks"
    run(root, "inference", "btcv", dataset_dir=str(phantom_dir / "imagesTs"), output_dir=str(out), preview=False)
    mask = np.asarray(nib.load(next(out.glob("*_seg.nii.gz"))).dataobj)
    assert set(np.unique(mask)) <= {0, *BTCV.values()}


@pytest.mark.parametrize(
    ("settings", "losses", "logged"),
    [
        ({"predictor": False}, {"reconstruction"}, {"rank_correlation": False, "momentum": False}),
        ({"mining": False}, {"reconstruction", "prediction"}, {"rank_correlation": True, "momentum": False}),
        ({"teacher_input": "masked"}, {"reconstruction", "prediction"}, {"rank_correlation": True, "momentum": True}),
    ],
)
def test_variants(
    settings: dict[str, Any], losses: set[str], logged: dict[str, bool], phantom_dir: Path, tmp_path: Path
) -> None:
    """MAE, prediction without mining, and a teacher that sees what it was trained on."""
    root = copy_bundle(NAME, tmp_path)
    run(root, "pretrain", dataset_dir=str(phantom_dir), pretrain_epochs=1, **settings)
    last = json.loads((root / "runs/pretrain/run.json").read_text())["last"]
    assert {name.removeprefix("loss_") for name in last if name.startswith("loss_")} == losses
    assert {name: name in last for name in logged} == logged
    assert any(name.startswith("vit.") for name in weights(root / "models/pretrained/ssl.pt"))


@pytest.mark.parametrize("variant", ["loss#ranking", "loss#prediction_weight", "method#normalise"])
def test_another_loss_is_another_pretraining(variant: str) -> None:
    """Else weights of the one would silently be taken for those of the other."""
    parser = ConfigParser({**config(NAME, "pretrain"), "cases": []})
    before = parser.get_parsed_content("settings")
    assert before["loss"] == [1.0, "mean", "biased"]
    parser[variant] = "other"
    parser.parse(True)
    assert parser.get_parsed_content("settings") != before


def test_the_teacher_follows_the_optimizer(phantom_dir: Path, tmp_path: Path) -> None:
    """A teacher that keeps nothing of itself is the student after its last step."""
    root = copy_bundle(NAME, tmp_path)
    run(root, "pretrain", dataset_dir=str(phantom_dir), pretrain_epochs=1, momentum_start=0.0, momentum_end=0.0)
    method = torch.load(root / "runs/pretrain/resume.pt", weights_only=True)["state"]["method"]
    teacher = {name: value for name, value in method.items() if name.startswith("teacher.module.")}
    assert teacher
    for name, value in teacher.items():
        assert torch.equal(value, method[name.replace("teacher.module.", "network.")]), name


def test_fine_tuning_on_other_crops_than_pretraining(
    phantom_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = copy_bundle(NAME, tmp_path)
    options: dict[str, Any] = {"dataset_dir": str(phantom_dir), "pretrain_epochs": 1, "epochs": 1}
    with caplog.at_level("INFO"):
        run(root, "train", roi_size=[48, 48, 48], **options, **{"pretrain_overrides#roi_size": [32, 32, 32]})
    assert "1 adapted to the input" in caplog.text
    assert "100.0% of the weights" in caplog.text
    positions = "vit.patch_embedding.position_embeddings"
    assert weights(root / "models/pretrained/ssl.pt")[positions].shape[1] == 8
    assert weights(root / "models/model.pt")[positions].shape[1] == 27


def test_window_of_another_size_than_the_networks(trained: dict[str, Path], phantom_dir: Path, tmp_path: Path) -> None:
    root, images = trained[NAME], phantom_dir / "imagesTs"
    for size in (32, 48):
        options = {"dataset_dir": str(images), "output_dir": str(tmp_path / str(size)), "preview": False}
        run(root, "inference", **options, **{"inferer#roi_size": [size, size, size]})
        assert len(list((tmp_path / str(size)).iterdir())) == 1

"""Both stages of every bundle, on generated CT at tiny sizes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import monai.bundle
import pytest
import torch

from common.errors import InputError, input_error_message
from common.prepare import prepare_folder
from tests.bundles.discovery import NAMES
from tests.bundles.running import assert_same_weights, copy_bundle, file, interrupted, run, tiny, weights

pytestmark = pytest.mark.parametrize("name", NAMES)

NETWORK_SIZES = {
    *("backbone", "decoder_channels", "features"),
    *("hidden_size", "depth", "n_heads", "feature_size"),
    *("decoder_hidden_size", "decoder_n_heads", "decoder_depth", "predictor_depth"),
}


def test_one_command_leaves_both_models_and_the_evidence(name: str, trained: dict[str, Path]) -> None:
    root = trained[name]
    for model in ("models/model.pt", "models/model_final.pt", "models/pretrained/ssl.pt"):
        content = torch.load(root / model, weights_only=True)
        assert content["card"]["method"] == name
        assert content["model"]
    for evidence in ("runs/pretrain/reconstruction.png", "runs/pretrain/run.json", "runs/train/run.json"):
        assert (root / evidence).stat().st_size > 0
    assert list((root / "runs/pretrain").glob("events.out.tfevents.*"))
    report = json.loads((root / "runs/train/run.json").read_text())
    assert report["status"] == "complete"
    assert report["steps"] == 4
    assert 0 <= report["best_metric"] <= 1
    pretraining = json.loads((root / "runs/pretrain/run.json").read_text())
    assert len(pretraining["cases"]) == 2 + 2  # unlabelled and training cases, not the validation case
    assert any(part.startswith("loss_") for part in pretraining["last"])


def test_a_finished_run_is_not_run_again(
    name: str, trained: dict[str, Path], phantom_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = trained[name]
    before = {p: p.stat().st_mtime_ns for p in (root / "models").rglob("*.pt")}
    with caplog.at_level("INFO"):
        run(root, "train", dataset_dir=str(phantom_dir))
    assert "Pretraining skipped" in caplog.text
    assert "nothing to train" in caplog.text
    assert {p: p.stat().st_mtime_ns for p in (root / "models").rglob("*.pt")} == before


@pytest.mark.slow
def test_an_archive_trains_what_its_folder_trains(
    name: str, trained: dict[str, Path], phantom_dir: Path, tmp_path: Path
) -> None:
    """Pretraining to the last bit; fine-tuning centres crops on background on other voxels of it."""
    prepare_folder(phantom_dir, tmp_path / "archive", spacing=tiny(trained[name])["spacing"])
    root = copy_bundle(name, tmp_path)
    run(root, "train", dataset_dir=str(tmp_path / "archive"))
    assert_same_weights(root / "models/pretrained/ssl.pt", trained[name] / "models/pretrained/ssl.pt")
    assert json.loads((root / "runs/train/run.json").read_text())["status"] == "complete"
    message = refusal(root, tmp_path / "archive", spacing=[5.0, 5.0, 5.0], pretrain_again=True)
    assert "prepared at 6 x 6 x 6 mm, the training is set to 5 x 5 x 5 mm" in message


def refusal(root: Path, data: Path, **overrides: object) -> str:
    """The one-line error of a training that must not run."""
    with pytest.raises(Exception, match=r".") as caught:
        run(root, "train", dataset_dir=str(data), **overrides)
    message = input_error_message(caught.value)
    assert message is not None
    return message


def test_pretrained_weights_of_another_network_are_refused(
    name: str, trained: dict[str, Path], phantom_dir: Path
) -> None:
    message = refusal(trained[name], phantom_dir, spacing=[5.0, 5.0, 5.0])
    assert "ssl.pt" in message
    assert "spacing" in message
    assert "--pretrain_again True" in message
    assert "--pretrained_as_is" not in message


def test_weights_pretrained_in_another_way_are_refused_or_used_as_they_are(
    name: str, trained: dict[str, Path], phantom_dir: Path, tmp_path: Path
) -> None:
    root = tmp_path / name
    shutil.copytree(trained[name], root)
    message = refusal(root, phantom_dir, pretrain_steps=3, restart=True)
    assert "steps: expected 3" in message or "steps: 3" in message
    assert "--pretrained_as_is True" in message
    before = (root / "models/pretrained/ssl.pt").read_bytes()
    run(root, "train", dataset_dir=str(phantom_dir), pretrain_steps=3, pretrained_as_is=True, restart=True, epochs=1)
    assert (root / "models/pretrained/ssl.pt").read_bytes() == before


def test_other_cases_are_noticed(name: str, trained: dict[str, Path], phantom_dir: Path, tmp_path: Path) -> None:
    """Weights pretrained on one folder do not slip into a training on another one."""
    other = tmp_path / "other"
    shutil.copytree(phantom_dir, other)
    for volume in [*other.glob("images*/*.nii.gz"), *other.glob("labels*/*.nii.gz")]:
        volume.rename(volume.with_name(volume.name.replace("phantom", "patient")))
    (other / "dataset.json").write_text((other / "dataset.json").read_text().replace("phantom_", "patient_"))
    assert "cases" in refusal(trained[name], other)


def test_an_interrupted_write_of_the_model_is_repeated(
    name: str, trained: dict[str, Path], phantom_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fills up while the pretrained weights are written costs their epoch, not the weights."""
    root = copy_bundle(name, tmp_path)

    def full(*_: object) -> None:
        msg = "ssl.pt: cannot be written. Free space."
        raise InputError(msg)

    with monkeypatch.context() as patched:
        patched.setattr("common.handlers.save_model.save_pretrained", full)
        assert "cannot be written" in refusal(root, phantom_dir)
    run(root, "train", dataset_dir=str(phantom_dir))
    for model in ("models/pretrained/ssl.pt", "models/model.pt", "models/model_final.pt"):
        assert_same_weights(root / model, trained[name] / model)


def test_pretraining_again_fine_tunes_again(
    name: str, trained: dict[str, Path], phantom_dir: Path, tmp_path: Path
) -> None:
    root = tmp_path / name
    shutil.copytree(trained[name], root)
    before = weights(root / "models/model_final.pt")
    run(root, "train", dataset_dir=str(phantom_dir), pretrain_again=True, pretrain_steps=1)
    after = weights(root / "models/model_final.pt")
    assert any(not torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize(("stage", "step"), [("pretrain", 3), ("train", 1), ("train", 4)])
def test_interrupted_and_resumed_equals_uninterrupted(
    name: str,
    stage: str,
    step: int,
    trained: dict[str, Path],
    phantom_dir: Path,
    tmp_path: Path,
) -> None:
    """Bit for bit, when a step of either stage is cut off before its optimizer step."""
    root = copy_bundle(name, tmp_path)
    pretrained = root / "models/pretrained/ssl.pt"
    with interrupted(step, lambda: pretrained.exists() == (stage == "train")):
        run(root, "train", dataset_dir=str(phantom_dir))
    run(root, "train", dataset_dir=str(phantom_dir))
    assert_same_weights(root / "models/pretrained/ssl.pt", trained[name] / "models/pretrained/ssl.pt")
    assert_same_weights(root / "models/model_final.pt", trained[name] / "models/model_final.pt")
    assert_same_weights(root / "models/model.pt", trained[name] / "models/model.pt")


@pytest.mark.slow
def test_resumed_with_worker_processes_equals_uninterrupted(name: str, phantom_dir: Path, tmp_path: Path) -> None:
    """Workers are seeded from the epoch's seed too."""
    whole, parts = (copy_bundle(name, tmp_path / part) for part in ("whole", "parts"))
    settings = {"dataset_dir": str(phantom_dir), "num_workers": 2, "pretrain_epochs": 3}
    run(whole, "pretrain", **settings)
    with interrupted(4):
        run(parts, "pretrain", **settings)
    run(parts, "pretrain", **settings)
    assert_same_weights(parts / "models/pretrained/ssl.pt", whole / "models/pretrained/ssl.pt")


def test_from_scratch_when_pretraining_is_switched_off(
    name: str, phantom_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = copy_bundle(name, tmp_path)
    with caplog.at_level("INFO"):
        run(root, "train", dataset_dir=str(phantom_dir), pretrain_epochs=0, epochs=1)
    assert "from scratch" in caplog.text
    assert (root / "models/model.pt").exists()
    assert not (root / "models/pretrained").exists()


def test_images_alone_can_be_pretrained_on(name: str, phantom_dir: Path, tmp_path: Path) -> None:
    images = tmp_path / "images_only"
    shutil.copytree(phantom_dir / "imagesUn", images)
    root = copy_bundle(name, tmp_path)
    run(root, "pretrain", dataset_dir=str(images))
    assert (root / "models/pretrained/ssl.pt").exists()


def test_the_papers_2d_setting_runs_from_training_to_masks(name: str, phantom_dir: Path, tmp_path: Path) -> None:
    root = copy_bundle(name, tmp_path)
    small = {"roi_size": [32, 32, 1], "spacing": [6.0, 6.0, -1.0]}
    kept = {k: v for k, v in tiny(root).items() if k in NETWORK_SIZES}
    small = {**small, **kept}
    steps = {"pretrain_epochs": 1, "pretrain_steps": 2, "epochs": 1, "steps": 2, "val_fraction": 0.5}
    options = {"bundle_root": str(root), "logging_file": False, "device": "cpu", **small}
    configs = [str(file(root, c)) for c in ("train", "paper_2d", "smoke_2d")]
    monai.bundle.run(config_file=configs, dataset_dir=str(phantom_dir), **options, **steps)
    out = tmp_path / "masks"
    configs[0] = str(file(root, "inference"))
    monai.bundle.run(config_file=configs, dataset_dir=str(phantom_dir / "imagesTs"), output_dir=str(out), **options)
    assert len(list(out.glob("*_seg.nii.gz"))) == 1

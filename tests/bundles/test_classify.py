"""Classes of whole cases, by the bundles that have ``classify.json``: training, resuming, scoring, new volumes."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import monai.bundle
import pytest
import torch
from monai.bundle import ConfigParser

from common.data.classes import read_classes
from common.errors import input_error_message
from tests.bundles.discovery import CLASSIFIERS
from tests.bundles.running import assert_same_weights, copy_bundle, file, interrupted, run, tiny

pytestmark = pytest.mark.parametrize("name", CLASSIFIERS)


def test_parts_fit_each_other(name: str, phantom_dir: Path, tmp_path: Path) -> None:
    """Network, masked labels and metric on the validation cases, which the first stage is told to leave out."""
    root = copy_bundle(name, tmp_path)
    parser = ConfigParser(json.loads(file(root, "classify").read_text()))
    for key, value in {**tiny(root), "bundle_root": str(root), "dataset_dir": str(phantom_dir)}.items():
        parser[key] = value
    evaluator = parser.get_parsed_content("validate#evaluator")
    evaluator.run()
    assert evaluator.state.metrics["val_mean_auc"] in (0.0, 0.5, 1.0)  # of one positive and one negative case
    held_out = parser.get_parsed_content("pretrain_overrides")["hold_out"]
    assert len(held_out) == 2
    assert held_out == [item["case"] for item in parser.get_parsed_content("validate#items")]
    assert parser.get_parsed_content("settings")["classifier"]["classes"] == ["consolidation"]


def test_a_mistake_in_the_table_is_one_line(name: str, phantom_dir: Path, tmp_path: Path) -> None:
    table = tmp_path / "mine.csv"
    table.write_text("case,consolidation\nphantom_2000,1\nphantom_2001,maybe\n")
    with pytest.raises(Exception, match=r".") as caught:
        run(copy_bundle(name, tmp_path), "classify", dataset_dir=str(phantom_dir), classes_file=str(table))
    assert "mine.csv: line 3: 'maybe' is not 0, 1 or nothing" in str(input_error_message(caught.value))


@pytest.mark.slow
def test_one_command_leaves_a_model_and_the_scores_of_the_test_cases(
    name: str, phantom_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = copy_bundle(name, tmp_path)
    run(root, "classify", dataset_dir=str(phantom_dir))
    for model in ("classifier.pt", "classifier_final.pt"):
        card = torch.load(root / "models" / model, weights_only=True)["card"]
        assert card["classes"] == ["consolidation"]
    out = root / "runs/classify"
    report = json.loads((out / "run.json").read_text())
    assert (report["status"], report["steps"]) == ("complete", 4)
    assert 0 <= report["best_metric"] <= 1
    assert list(out.glob("events.out.tfevents.*"))
    metrics = json.loads((out / "metrics.json").read_text())
    label = int(read_classes(phantom_dir, classes=["consolidation"]).labels["phantom_3000"][0])
    assert metrics["classes"]["consolidation"] == {
        "auc": None,
        "positives": label,
        "negatives": 1 - label,
        "not_known": 0,
    }
    scores = list(csv.DictReader((out / "scores.csv").open()))
    assert [(row["case"], row["class"], row["label"]) for row in scores] == [
        ("phantom_3000", "consolidation", str(label))
    ]

    before = {p: p.read_bytes() for p in (root / "models").rglob("*.pt")}
    with caplog.at_level("INFO"):
        run(root, "classify", dataset_dir=str(phantom_dir))  # a finished run is not run again
        assert "nothing to train" in caplog.text
        run(root, "train", dataset_dir=str(phantom_dir))  # both tasks hold out the same cases: one pretraining serves
        assert caplog.text.count("Pretraining skipped") == 2
    assert {p: p.read_bytes() for p in before} == before

    volumes = tmp_path / "volumes"
    shutil.copytree(phantom_dir / "imagesTs", volumes)
    (volumes / "bad.nii.gz").write_bytes(b"no")
    with pytest.raises(Exception, match=r".") as caught:
        run(root, "classify", "classify_inference", dataset_dir=str(volumes), output_dir=str(tmp_path / "new"))
    assert "bad.nii.gz" in str(input_error_message(caught.value))
    (line,) = csv.DictReader((tmp_path / "new" / "probabilities.csv").open())
    assert line == {"case": "phantom_3000", "consolidation": scores[0]["probability"]}


@pytest.mark.slow
def test_interrupted_and_resumed_equals_uninterrupted(
    name: str, phantom_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Bit for bit, from scratch, when the second epoch is cut off."""
    whole, parts = (copy_bundle(name, tmp_path / part) for part in ("whole", "parts"))
    settings = {"dataset_dir": str(phantom_dir), "pretrain_epochs": 0}
    with caplog.at_level("INFO"):
        run(whole, "classify", **settings)
    assert "from scratch" in caplog.text
    assert not (whole / "models/pretrained").exists()
    with interrupted(3):
        run(parts, "classify", **settings)
    run(parts, "classify", **settings)
    for model in ("models/classifier.pt", "models/classifier_final.pt"):
        assert_same_weights(parts / model, whole / model)
    assert (parts / "runs/classify/scores.csv").read_bytes() == (whole / "runs/classify/scores.csv").read_bytes()


@pytest.mark.slow
def test_the_papers_2d_setting_classifies_volumes(name: str, phantom_dir: Path, tmp_path: Path) -> None:
    root = copy_bundle(name, tmp_path)
    small = {"backbone": "b0", "classify_spacing": [6.0, 6.0, 24.0], "classify_size": [64, 32, 8]}
    steps = {"pretrain_epochs": 0, "epochs": 1, "steps": 2, "val_interval": 1, "val_fraction": 0.5}
    monai.bundle.run(
        config_file=[str(file(root, c)) for c in ("classify", "paper_2d", "smoke_2d")],
        bundle_root=str(root),
        dataset_dir=str(phantom_dir),
        device="cpu",
        logging_file=False,
        classes=["consolidation"],
        **small,
        **steps,
    )
    assert (root / "runs/classify/scores.csv").exists()

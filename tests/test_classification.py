"""Classes of whole volumes: what is written of them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.inferers import SimpleInferer

from common.checkpoints import save_pretrained
from common.classification import ClassPrediction, ClassScoring, model_classes
from common.errors import InputError


class TwoLogits(torch.nn.Module):
    """Its only voxel, and 0."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        value = x.flatten(1)
        return torch.cat([value, torch.zeros_like(value)], dim=1)


def load(item: dict[str, Any]) -> dict[str, Any]:
    if item["image"] == "bad":
        raise InputError("bad: truncated or damaged. Copy it again.")
    return {**item, "image": torch.full((1, 1, 1, 1), float(item["image"]))}


def settings(folder: Path) -> dict[str, Any]:
    return {
        "preprocessing": load,
        "inferer": SimpleInferer(),
        "network": TwoLogits(),
        "classes": ["x", "y"],
        "output_dir": folder,
    }


def item(case: str, image: str, *label: float) -> dict[str, Any]:
    return {"case": case, "image": image, "label": np.array(label, dtype=np.float32)}


def test_new_volumes_get_a_line_each_and_a_bad_one_does_not_stop_the_others(tmp_path: Path) -> None:
    items = [{"case": "a", "image": "0"}, {"case": "b", "image": "bad"}, {"case": "c", "image": str(math.log(3))}]
    with pytest.raises(InputError, match=r"1 of 3 volumes .*bad: truncated"):
        ClassPrediction(items=items, **settings(tmp_path)).run()
    assert (tmp_path / "probabilities.csv").read_text() == "case,x,y\na,0.5,0.5\nc,0.75,0.5\n"


def test_test_cases_are_scored(tmp_path: Path) -> None:
    test = [item("a", "0", 1, 0), item("b", str(math.log(3)), 1, 0), item("c", "-1", 0, math.nan), item("d", "2", 0, 0)]
    ClassScoring(sections={"test": test, "val": []}, **settings(tmp_path)).run()
    lines = (tmp_path / "scores.csv").read_text().splitlines()
    assert lines[:3] == ["case,class,label,probability", "a,x,1,0.5", "a,y,0,0.5"]
    assert lines[3] == "b,x,1,0.75"
    assert "c,y,,0.5" in lines
    report = json.loads((tmp_path / "metrics.json").read_text())
    # positives 0.5 and 0.75, negatives below both and above both
    assert report["classes"]["x"] == {"auc": 0.5, "positives": 2, "negatives": 2, "not_known": 0}
    assert report["classes"]["y"] == {"auc": None, "positives": 0, "negatives": 3, "not_known": 1}
    assert report["mean_auc"] == 0.5
    assert report["section"] == "test"
    assert report["cases"] == ["a", "b", "c", "d"]


def test_without_test_cases_the_validation_cases_are_scored_and_it_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(InputError, match="1 of 2 volumes"):
        ClassScoring(
            sections={"test": [], "val": [item("a", "1", 1, 1), item("b", "bad", 0, 0)]}, **settings(tmp_path)
        ).run()
    assert "validation cases are scored" in caplog.text
    report = json.loads((tmp_path / "metrics.json").read_text())
    assert report["section"] == "val"
    assert report["failed"] == ["bad: truncated or damaged. Copy it again."]
    assert report["mean_auc"] is None


def test_a_model_tells_its_classes(tmp_path: Path) -> None:
    save_pretrained(tmp_path / "classifier.pt", torch.nn.Linear(1, 2), {"classes": ["x", "y"]})
    save_pretrained(tmp_path / "model.pt", torch.nn.Linear(1, 2), {"structures": {}})
    assert model_classes(tmp_path / "classifier.pt") == ["x", "y"]
    with pytest.raises(InputError, match="no classifier"):
        model_classes(tmp_path / "model.pt")
    with pytest.raises(InputError, match=r"Train one with classify\.json"):
        model_classes(tmp_path / "absent.pt")

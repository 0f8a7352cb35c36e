"""Classes of whole volumes by a trained network: scored against what is known, or for volumes of which nothing is."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.inferers import Inferer
from monai.networks.utils import eval_mode

from common.checkpoints import load_checkpoint
from common.class_metrics import RULE, class_aucs, mean_auc
from common.data.volume_stream import VolumeStream
from common.errors import InputError
from common.files import write_csv, write_json
from common.handlers.run_report import package_versions

logger = logging.getLogger(__name__)

Item = Mapping[str, Any]


class ClassPrediction:
    """Probabilities of the classes of new volumes, into ``probabilities.csv``: ``case,<class>,...``, a line per volume.

    Args:
        items: ``{"image": path, "case": id}``.
        preprocessing: from an item to the network's input (C, *S).
        inferer: called with the input (1, C, *S) and the network.
        network: returns logits (1, N).
        classes: their N names.
        output_dir: receives the file.
        device: where the network is, or shall be.
    """

    def __init__(
        self,
        *,
        items: Sequence[Item],
        preprocessing: Callable[[Any], Any],
        inferer: Inferer,
        network: torch.nn.Module,
        classes: Sequence[str],
        output_dir: str | os.PathLike,
        device: torch.device | str = "cpu",
    ) -> None:
        self.stream = VolumeStream(items, preprocessing, description="classifying")
        self.inferer = inferer
        self.network = network
        self.classes = tuple(classes)
        self.output_dir = Path(output_dir)
        self.device = torch.device(device)

    def run(self) -> None:
        """Classify all volumes.

        Raises:
            InputError: at the end, when some could not be read; the others are in the file.
        """
        rows = [[item["case"], *map(_shown, p.tolist())] for item, p in self.probabilities()]
        if rows:
            write_csv(self.output_dir / "probabilities.csv", ["case", *self.classes], rows)
            logger.info("%s: probabilities of %d volumes.", self.output_dir / "probabilities.csv", len(rows))
        self.stream.report()

    def probabilities(self) -> Iterator[tuple[Any, torch.Tensor]]:
        """Items that could be read, each with its probabilities (N,), float64."""
        self.network.to(self.device)
        with eval_mode(self.network):
            for item in self.stream:
                image = torch.as_tensor(item["image"])[None].to(self.device)
                logits = self.inferer(image, self.network)[0]
                yield item, logits.detach().double().sigmoid().cpu()


class ClassScoring(ClassPrediction):
    """Probabilities of cases of which the classes are known, and the area under the ROC curve.

    ``scores.csv`` has a line per case and class (case, class, label, probability; no label where it is not known),
    ``metrics.json`` the AUC per class with the numbers of cases, and their mean. Where there are no test cases the
    validation cases are scored, and the files say so: the epoch was chosen on these.

    Args:
        sections: items of the test and of the validation cases, ``{"image": path, "case": id, "label": (N,)}``.
        others: see :class:`ClassPrediction`.
    """

    def __init__(self, *, sections: Mapping[str, Sequence[Item]], **others: Any) -> None:
        self.section = "test" if sections["test"] else "val"
        super().__init__(items=sections[self.section], **others)

    def run(self) -> None:
        """Score all cases.

        Raises:
            InputError: at the end, when some volumes could not be read; the others are in the files.
        """
        if self.section == "val":
            logger.warning("No classified test case (imagesTs): the validation cases are scored, which flatters.")
        done = [(item["case"], p, torch.as_tensor(item["label"]).double()) for item, p in self.probabilities()]
        if done:
            self._write(done)
        self.stream.report()

    def _write(self, done: Sequence[tuple[str, torch.Tensor, torch.Tensor]]) -> None:
        rows = [
            [case, name, "" if y.isnan() else int(y), _shown(float(p))]
            for case, probabilities, label in done
            for name, p, y in zip(self.classes, probabilities, label, strict=True)
        ]
        write_csv(self.output_dir / "scores.csv", ["case", "class", "label", "probability"], rows)
        labels = torch.stack([label for _, _, label in done])
        aucs = class_aucs(torch.stack([probabilities for _, probabilities, _ in done]), labels)
        classes = {
            name: {
                "auc": _defined(auc),
                "positives": int((column == 1).sum()),
                "negatives": int((column == 0).sum()),
                "not_known": int(column.isnan().sum()),
            }
            for name, auc, column in zip(self.classes, aucs, labels.unbind(1), strict=True)
        }
        report = {
            "section": self.section,
            "rule": RULE,
            "mean_auc": _defined(mean_auc(aucs)),
            "classes": classes,
            "cases": [case for case, _, _ in done],
            "failed": self.stream.failures,
            "versions": package_versions(),
        }
        write_json(self.output_dir / "metrics.json", report)
        table = [*zip(self.classes, aucs, strict=True), ("mean", mean_auc(aucs))]
        lines = [f"{name:<24}{_two(auc):>6}" for name, auc in table]
        logger.info(
            "AUC of %d %s cases, written to %s:\n%s", len(done), self.section, self.output_dir, "\n".join(lines)
        )


def model_classes(model: str | os.PathLike) -> list[str]:
    """Names of the classes that a trained model tells, in the order of its outputs.

    Raises:
        InputError: when there is no such file, or it is no classifier.
    """
    if not Path(model).exists():
        msg = f"{model}: no trained classifier there. Train one with classify.json first."
        raise InputError(msg)
    classes = load_checkpoint(model).get("card", {}).get("classes")
    if not classes:
        msg = f"{model}: its card names no classes, so it is no classifier. Give a file that classify.json wrote."
        raise InputError(msg)
    return list(classes)


def _shown(probability: float) -> str:
    return f"{probability:.6g}"


def _defined(auc: float) -> float | None:
    return None if math.isnan(auc) else round(auc, 6)


def _two(auc: float) -> str:
    return "-" if math.isnan(auc) else f"{auc:.2f}"

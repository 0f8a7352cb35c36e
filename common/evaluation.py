"""Metrics of a network, or of masks in a folder, on labelled cases, each in the space of its label file."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.networks.utils import eval_mode
from tqdm import tqdm

from common.data.cases import case_id
from common.data.contents import check_label_values, check_same_grid, read_volume
from common.data.headers import is_nifti
from common.errors import InputError, input_error_message
from common.files import write_csv, write_json
from common.handlers.run_report import package_versions
from common.metrics import RULE, Row, merge_structures, segmentation_metrics, summarise

logger = logging.getLogger(__name__)

Item = Mapping[str, Any]
Mask = tuple[np.ndarray, np.ndarray, str]  # ids (*S), affine (4, 4), name for messages


@dataclass(frozen=True, kw_only=True)
class Measure:
    """What is measured, and where the results go.

    Args:
        structures: name -> id.
        output_dir: receives ``metrics.csv`` (a row per case and structure) and ``metrics.json`` (the summary).
        groups: group -> names of structures that are also measured as one, e.g. both lungs, into ``groups.csv`` and the
            summary's ``groups``; where one of them is not annotated, the group is not.
        nsd_tolerances, boundary_iou_distance: mm; see :func:`common.metrics.segmentation_metrics`.
    """

    structures: Mapping[str, int]
    output_dir: str | os.PathLike
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)
    nsd_tolerances: tuple[float, ...] = (1.0, 3.0)
    boundary_iou_distance: float = 2.0

    def __call__(self, items: Sequence[Item], segment: Callable[[Item], Mask]) -> dict[str, Any]:
        """Measure the masks that ``segment`` makes against the items' label files.

        A case whose files are at fault is reported, and the others are still measured.

        Returns:
            what ``metrics.json`` holds.

        Raises:
            InputError: when there is no labelled item; at the end, when a case has failed.
        """
        labelled = [item for item in items if item.get("label") is not None]
        if not labelled:
            raise InputError("items: no case has a label, so there is nothing to measure. Give labelled cases.")
        if len(labelled) < len(items):
            logger.info("%d of %d cases have no label and are left out", len(items) - len(labelled), len(items))
        merge_structures(
            np.zeros(0, np.uint8), structures=self.structures, groups=self.groups
        )  # refuses what cannot be
        started, rows, group_rows, failed, cases = time.time(), [], [], {}, {}
        for item in tqdm(labelled, desc="evaluation", unit="case", dynamic_ncols=True):
            case, begin = str(item.get("case") or case_id(item["label"])), time.monotonic()
            try:
                mask = segment(item)
                segmented = time.monotonic()
                case_rows, case_groups, spacing = self._measure(item, mask)
            except Exception as error:
                message = input_error_message(error)
                if message is None:
                    raise
                logger.error("%s: %s", case, message)
                failed[case] = message
                continue
            rows += [{"case": case, **row} for row in case_rows]
            group_rows += [{"case": case, **row} for row in case_groups]
            seconds = {"segment": round(segmented - begin, 2), "measure": round(time.monotonic() - segmented, 2)}
            cases[case] = {"label": str(item["label"]), "spacing_mm": spacing, "seconds": seconds}
        report = {
            "rule": RULE,
            "nsd_tolerances_mm": list(self.nsd_tolerances),
            "boundary_iou_distance_mm": self.boundary_iou_distance,
            **summarise(rows),
            **({"groups": summarise(group_rows)["structures"]} if self.groups else {}),
            "cases": cases,
            "failed": failed,
            "seconds": round(time.time() - started, 1),
            "versions": package_versions(),
        }
        if rows:
            output_dir = Path(self.output_dir)
            _write_table(output_dir / "metrics.csv", rows)
            if group_rows:
                _write_table(output_dir / "groups.csv", group_rows)
            write_json(output_dir / "metrics.json", report)
            _log_table(report, output_dir)
        if failed:
            first = next(iter(failed.values()))
            raise InputError(f"{len(failed)} of {len(labelled)} cases failed ({', '.join(failed)}). The first: {first}")
        return report

    def _measure(self, item: Item, mask: Mask) -> tuple[list[Row], list[Row], list[float]]:
        label, affine = read_volume(item["label"])
        check_label_values(label, str(item["label"]), item.get("known_ids"))
        ids, mask_affine, mask_name = mask
        check_same_grid((label.shape, affine, str(item["label"])), (ids.shape, mask_affine, mask_name))
        spacing = np.linalg.norm(affine[:3, :3], axis=0).tolist()
        known = item.get("annotated")
        rows = self._score(ids, label, spacing, self.structures, known)
        group_rows = []
        if self.groups:
            merged_ids, merged_label = (
                merge_structures(x, structures=self.structures, groups=self.groups) for x in (ids, label)
            )
            group_ids = {name: i for i, name in enumerate(self.groups, start=1)}
            if known is not None:
                whole = [all(self.structures[n] in known for n in names) for names in self.groups.values()]
                known = [i for i, annotated in zip(group_ids.values(), whole, strict=True) if annotated]
            group_rows = self._score(merged_ids, merged_label, spacing, group_ids, known)
        return rows, group_rows, [round(s, 4) for s in spacing]

    def _score(
        self,
        pred: np.ndarray,
        label: np.ndarray,
        spacing: list[float],
        structures: Mapping[str, int],
        annotated: Collection[int] | None,
    ) -> list[Row]:
        return segmentation_metrics(
            pred,
            label,
            spacing=spacing,
            structures=structures,
            annotated=annotated,
            nsd_tolerances=self.nsd_tolerances,
            boundary_iou_distance=self.boundary_iou_distance,
        )


class Evaluation:
    """Segments labelled cases as inference does and measures the masks in the space of the label files.

    Labels are read by themselves and never resampled.

    Args:
        items: ``{"image": path, "label": path, "annotated": [ids], "case": id}``; without ``annotated``, all
            structures are scored.
        preprocessing: from ``{"image": path}`` to the network's input (C, *S).
        inferer: called with the input (1, C, *S) and the network.
        network: returns scores (1, N + 1, *S).
        postprocessing: from ``pred`` and ``image`` to ids (1, *file shape) on the file's grid, e.g.
            :func:`common.recipes.save_masks`. ``pred`` is what the inferer makes of one volume: scores (N + 1, *S), or
            uint8 channel indices (1, *S) where it has taken the argmax.
        structures, output_dir, groups, nsd_tolerances, boundary_iou_distance: see :class:`Measure`.
        device: where the network is, or shall be.
    """

    def __init__(
        self,
        *,
        items: Sequence[Item],
        preprocessing: Callable[[dict], Any],
        inferer: Inferer,
        network: torch.nn.Module,
        postprocessing: Callable[[dict], Any],
        structures: Mapping[str, int],
        output_dir: str | os.PathLike,
        device: torch.device | str = "cpu",
        groups: Mapping[str, Sequence[str]] | None = None,
        nsd_tolerances: Sequence[float] = (1.0, 3.0),
        boundary_iou_distance: float = 2.0,
    ) -> None:
        self.items = list(items)
        self.preprocessing = preprocessing
        self.inferer = inferer
        self.network = network
        self.postprocessing = postprocessing
        self.device = torch.device(device)
        self.measure = Measure(
            structures=dict(structures),
            output_dir=output_dir,
            groups=dict(groups or {}),
            nsd_tolerances=tuple(nsd_tolerances),
            boundary_iou_distance=boundary_iou_distance,
        )

    def run(self) -> dict[str, Any]:
        """Evaluate all cases.

        Returns:
            what ``metrics.json`` holds.

        Raises:
            InputError: see :class:`Measure`.
        """
        self.network.to(self.device)
        return self.measure(self.items, self._segment)

    def _segment(self, item: Item) -> Mask:
        data = self.preprocessing({"image": item["image"]})
        image = data["image"]
        with eval_mode(self.network):
            scores = self.inferer(torch.as_tensor(image)[None].to(self.device), self.network)[0]
        data["pred"] = MetaTensor(torch.as_tensor(scores), meta=image.meta)
        del scores
        pred = self.postprocessing(data)["pred"]
        return torch.as_tensor(pred)[0].cpu().numpy(), np.asarray(pred.affine.cpu()), str(item["image"])


def evaluate_masks(
    pred_dir: str | os.PathLike,
    label_dir: str | os.PathLike,
    *,
    structures: Mapping[str, int],
    output_dir: str | os.PathLike,
    annotated: Mapping[str, Collection[int]] | None = None,
    nsd_tolerances: Sequence[float] = (1.0, 3.0),
    boundary_iou_distance: float = 2.0,
) -> dict[str, Any]:
    """Measure the masks of a folder, from whatever program, against the label files of another.

    Args:
        pred_dir: masks ``<case>_seg.nii.gz`` (as inference writes them) or ``<case>.nii.gz``, ids as in ``structures``.
        label_dir: label files ``<case>.nii.gz``; each needs a mask.
        structures, output_dir, nsd_tolerances, boundary_iou_distance: see :class:`Measure`.
        annotated: per case, the ids its label file knows about; all, for a case that is not named.

    Returns:
        what ``metrics.json`` holds.

    Raises:
        InputError: no label files; at the end, when a case has failed, e.g. for want of a mask.
    """
    labels = [path for path in sorted(Path(label_dir).glob("[!.]*")) if is_nifti(path)]
    if not labels:
        raise InputError(f"{label_dir}: no label files (.nii, .nii.gz). Give the folder that holds them.")
    items: list[dict[str, Any]] = [{"label": str(path), "case": case_id(path)} for path in labels]
    for item in items:
        if annotated is not None and item["case"] in annotated:
            item["annotated"] = annotated[item["case"]]

    def read_mask(item: Item) -> Mask:
        names = [f"{item['case']}{ending}" for ending in ("_seg.nii.gz", ".nii.gz", "_seg.nii", ".nii")]
        path = next((Path(pred_dir) / name for name in names if (Path(pred_dir) / name).is_file()), None)
        if path is None:
            raise InputError(f"{pred_dir}: no mask for {item['label']}. Add {names[0]} or {names[1]}.")
        ids, affine = read_volume(path)
        check_label_values(ids, str(path))
        return ids, affine, str(path)

    measure = Measure(
        structures=dict(structures),
        output_dir=output_dir,
        nsd_tolerances=tuple(nsd_tolerances),
        boundary_iou_distance=boundary_iou_distance,
    )
    return measure(items, read_mask)


def _write_table(path: Path, rows: Sequence[Row]) -> None:
    """A row per case and structure; undefined values are empty cells."""
    header = list(rows[0])
    write_csv(path, header, ([_cell(row.get(name, "")) for name in header] for row in rows))


def _cell(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return "" if math.isnan(value) else f"{value:.6g}"


def _log_table(report: Mapping[str, Any], output_dir: Path) -> None:
    columns = ["dsc", "hd95", *(f"nsd_{t:g}mm" for t in report["nsd_tolerances_mm"]), "sensitivity"]
    lines = [f"{'structure':<18}{'scored':>7}{'missed':>7}{'invented':>9}" + "".join(f"{c:>16}" for c in columns)]
    for name, result in [*report["structures"].items(), *report.get("groups", {}).items()]:
        counts = result["counts"]
        line = f"{name:<18}{counts['scored']:>7}{counts['missed']:>7}{counts['invented']:>9}"
        lines.append(line + "".join(f"{_mean_sd(result[c]):>16}" for c in columns))
    lines.append(f"{'mean over cases':<41}" + "".join(f"{_mean_sd(report['over_cases'][c]):>16}" for c in columns))
    logger.info("mean ± SD over cases (distances in mm), written to %s:\n%s", output_dir, "\n".join(lines))


def _mean_sd(value: Mapping[str, Any]) -> str:
    if value["mean"] is None:
        return "-"
    return f"{value['mean']:.3f}" + ("" if value["sd"] is None else f" ± {value['sd']:.3f}")

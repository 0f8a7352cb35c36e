"""How well a mask agrees with a label, per structure, in the space the label was drawn in.

Rule for structures that are empty in the label or in the mask (``status`` of a row):

================ ============= ============ ===========================================================
status           label         mask         values
================ ============= ============ ===========================================================
scored           there         there        all
missed           there         empty        DSC, NSD, sensitivity, boundary IoU 0; HD, HD95 undefined
invented         empty         there        DSC, NSD, boundary IoU 0; sensitivity, HD, HD95 undefined
both empty       empty         empty        all undefined
not annotated    unknown       not looked at  all undefined
================ ============= ============ ===========================================================

Undefined values are NaN, stay out of every mean, and are counted by their status in :func:`summarise`. A structure that
is not annotated in a case is not scored there: voxels of it in the mask count as background for the other structures.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.metrics import compute_dice
from monai.metrics.utils import get_edge_surface_distance

Row = dict[str, Any]

STATUSES = ("scored", "missed", "invented", "both empty", "not annotated")
RULE = (
    "Only structures annotated in a case are scored. Missed (empty mask) or invented (empty label): DSC, NSD and "
    "boundary IoU 0; sensitivity 0 where missed, undefined where invented; HD and HD95 undefined. Both empty: all "
    "undefined. Undefined values stay out of the means and are counted. SD is the sample's (n - 1)."
)
_VOLUMES = ("label_voxels", "pred_voxels", "label_ml", "pred_ml")


def metric_names(nsd_tolerances: Sequence[float] = (1.0, 3.0)) -> tuple[str, ...]:
    """Column names of the metrics, in order; distances in mm."""
    return ("dsc", "hd", "hd95", *(f"nsd_{t:g}mm" for t in nsd_tolerances), "sensitivity", "boundary_iou")


def segmentation_metrics(
    pred: np.ndarray | torch.Tensor,
    label: np.ndarray | torch.Tensor,
    *,
    spacing: Sequence[float],
    structures: Mapping[str, int],
    annotated: Collection[int] | None = None,
    nsd_tolerances: Sequence[float] = (1.0, 3.0),
    boundary_iou_distance: float = 2.0,
) -> list[Row]:
    """Compare a mask of structure ids with a label of the same shape.

    DSC is MONAI's ``compute_dice``. HD, HD95 (the larger of the two directed 95th percentiles) and NSD (share of both
    surfaces' voxels that lie within the tolerance of the other surface) come from MONAI's surface distances, computed
    once: the values are those of ``compute_hausdorff_distance`` and ``compute_surface_dice``, which would each compute
    them again. Sensitivity is TP / (TP + FN). Boundary IoU: see :func:`boundary_iou`.

    Args:
        pred, label: integer ids, ``(*S)`` or ``(1, *S)``, 2D or 3D; in the original space, never resampled labels.
        spacing: mm per voxel along each axis.
        structures: name -> id of what to score.
        annotated: ids that the label knows about; ``None``: all.
        nsd_tolerances: mm.
        boundary_iou_distance: mm.

    Returns:
        one row per structure: ``structure``, ``id``, ``status``, the metrics (:func:`metric_names`; undefined: NaN),
        ``label_voxels``, ``pred_voxels``, ``label_ml``, ``pred_ml``.

    Raises:
        ValueError: when shapes, spacing or tolerances do not fit.
    """
    pred_ids, label_ids = _ids(pred, len(spacing)), _ids(label, len(spacing))
    if pred_ids.shape != label_ids.shape:
        msg = f"the mask has shape {pred_ids.shape}, the label {label_ids.shape}; expected the same grid."
        raise ValueError(msg)
    if min((*spacing, boundary_iou_distance, *(t + 1e-9 for t in nsd_tolerances))) <= 0:
        msg = f"spacing {tuple(spacing)}, tolerances {tuple(nsd_tolerances)}, {boundary_iou_distance}: expected mm > 0."
        raise ValueError(msg)
    rows = []
    for name, structure_id in structures.items():
        row: Row = {"structure": name, "id": structure_id, "status": "not annotated"}
        row |= dict.fromkeys((*metric_names(nsd_tolerances), *_VOLUMES), math.nan)
        if annotated is None or structure_id in annotated:
            masks = pred_ids == structure_id, label_ids == structure_id
            row |= _score(*masks, spacing, nsd_tolerances, boundary_iou_distance)
        rows.append(row)
    return rows


def merge_structures(
    ids: np.ndarray, *, structures: Mapping[str, int], groups: Mapping[str, Sequence[str]]
) -> np.ndarray:
    """One id per group instead of one per structure: 1, 2, ... in the order of ``groups``, 0 elsewhere.

    Args:
        ids: structure ids of any shape.
        structures: name -> id.
        groups: group -> names of its structures, no structure in two of them.

    Raises:
        ValueError: for an empty group, an unknown structure, or one in two groups.
    """
    members = [name for names in groups.values() for name in names]
    unknown = sorted(set(members) - set(structures))
    if unknown or len(set(members)) < len(members) or not all(groups.values()):
        msg = f"groups: got {dict(groups)}. Put each structure of {', '.join(structures)} into one group at most."
        raise ValueError(msg)
    table = np.zeros(max(int(ids.max(initial=0)), *structures.values()) + 1, dtype=np.uint8)
    for group_id, names in enumerate(groups.values(), start=1):
        table[[structures[name] for name in names]] = group_id
    return table[ids.astype(np.int64, copy=False)]


def known_groups(*, groups: Mapping[str, Sequence[str]], structures: Mapping[str, int]) -> dict[str, list[str]]:
    """The groups without the structures that a network does not know, and without groups of none."""
    known = {group: [name for name in names if name in structures] for group, names in groups.items()}
    return {group: names for group, names in known.items() if names}


def boundary_iou(pred: np.ndarray, label: np.ndarray, *, spacing: Sequence[float], distance: float) -> float:
    """Intersection over union of the two masks' inner borders (Cheng et al., Boundary IoU, CVPR 2021, eq. 2).

    The border of a mask is its voxels within ``distance`` of a voxel outside it, measured between centres, and at least
    its outermost layer where voxels are larger than ``distance``. On isotropic voxels this is the paper's band of
    ``distance / spacing`` voxels. Beyond the volume's edge is outside.

    Args:
        pred, label: bool ``(*S)``.
        spacing: mm.
        distance: mm.

    Returns:
        0 to 1; NaN when both are empty.
    """
    borders = [mask & ~_core(mask, spacing, distance) for mask in (pred, label)]
    union = int(np.count_nonzero(borders[0] | borders[1]))
    return int(np.count_nonzero(borders[0] & borders[1])) / union if union else math.nan


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    """Mean and standard deviation over cases, per structure and over structures, and the counts behind them.

    Args:
        rows: rows of :func:`segmentation_metrics`, each with its ``case``.

    Returns:
        ``structures``: per structure and metric ``{mean, sd, n}`` over cases, and ``counts`` of statuses;
        ``over_cases``: ``{mean, sd, n}`` of each case's mean over its structures; ``over_structures``: of the
        structures' means; ``counts`` and ``n_cases``. A mean of nothing and an SD of fewer than two are ``None``.
    """
    skip = {"case", "structure", "id", "status", *_VOLUMES}
    metrics = [name for name in (rows[0] if rows else {}) if name not in skip]
    by_structure = _grouped(rows, "structure")
    by_case = _grouped(rows, "case")
    per_structure: dict[str, Any] = {}
    for name, group in by_structure.items():
        per_structure[name] = {m: _mean_sd([row[m] for row in group]) for m in (*metrics, "label_ml", "pred_ml")}
        per_structure[name]["counts"] = _counts(group)
    case_means = {m: [_mean_sd([row[m] for row in group])["mean"] for group in by_case.values()] for m in metrics}
    return {
        "structures": per_structure,
        "over_cases": {m: _mean_sd(case_means[m]) for m in metrics},
        "over_structures": {m: _mean_sd([s[m]["mean"] for s in per_structure.values()]) for m in metrics},
        "counts": _counts(rows),
        "n_cases": len(by_case),
    }


def _ids(volume: np.ndarray | torch.Tensor, ndim: int) -> np.ndarray:
    array = volume.detach().cpu().numpy() if isinstance(volume, torch.Tensor) else np.asarray(volume)
    if array.ndim == ndim + 1 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != ndim:
        msg = f"a volume has shape {array.shape}; expected {ndim} axes, as many as spacing has, or one channel of them."
        raise ValueError(msg)
    return array


def _score(
    pred: np.ndarray,
    label: np.ndarray,
    spacing: Sequence[float],
    nsd_tolerances: Sequence[float],
    boundary_distance: float,
) -> Row:
    n_pred, n_label = int(np.count_nonzero(pred)), int(np.count_nonzero(label))
    ml = math.prod(map(float, spacing)) / 1000
    row: Row = {"label_voxels": n_label, "pred_voxels": n_pred, "label_ml": n_label * ml, "pred_ml": n_pred * ml}
    overlaps = ["dsc", *(f"nsd_{t:g}mm" for t in nsd_tolerances), "boundary_iou"]
    if not n_pred and not n_label:
        return {**row, "status": "both empty"}
    if not n_label:
        return {**row, "status": "invented", **dict.fromkeys(overlaps, 0.0)}
    if not n_pred:
        return {**row, "status": "missed", **dict.fromkeys((*overlaps, "sensitivity"), 0.0)}

    box = _union_box(pred, label)
    pred, label = np.ascontiguousarray(pred[box]), np.ascontiguousarray(label[box])
    pred_tensor, label_tensor = torch.from_numpy(pred), torch.from_numpy(label)
    distances = get_edge_surface_distance(
        pred_tensor, label_tensor, spacing=[float(s) for s in spacing], symmetric=True
    )[1]
    to_label, to_pred = (np.asarray(d, dtype=np.float64) for d in distances)
    both = np.concatenate([to_label, to_pred])
    row |= {
        "status": "scored",
        "dsc": float(compute_dice(pred_tensor[None, None], label_tensor[None, None])),
        "hd": float(both.max()),
        "hd95": float(max(np.quantile(to_label, 0.95), np.quantile(to_pred, 0.95))),
        "sensitivity": int(np.count_nonzero(pred & label)) / n_label,
        "boundary_iou": boundary_iou(pred, label, spacing=spacing, distance=boundary_distance),
    }
    # distances come in float32, so that 3 mm may read 3.0000002
    row |= {f"nsd_{t:g}mm": float((both <= t + 1e-5).mean()) for t in nsd_tolerances}
    return row


def _union_box(pred: np.ndarray, label: np.ndarray) -> tuple[slice, ...]:
    """The box around both masks; surfaces and borders are the same inside it as in the whole volume."""
    either = pred | label
    box = []
    for axis in range(either.ndim):
        there = np.flatnonzero(either.any(axis=tuple(a for a in range(either.ndim) if a != axis)))
        box.append(slice(int(there[0]), int(there[-1]) + 1))
    return tuple(box)


def _core(mask: np.ndarray, spacing: Sequence[float], distance: float) -> np.ndarray:
    """Voxels of ``mask`` with nothing outside it within ``distance`` mm, nor next to them along an axis.

    An exact Euclidean erosion as a product of shifted masks: one pass over the volume per offset.
    """
    reach = [max(1, math.floor(distance / s + 1e-6)) for s in spacing]
    padded = np.pad(mask, [(r, r) for r in reach])
    core = mask.copy()
    for offset in itertools.product(*(range(-r, r + 1) for r in reach)):
        next_to = sum(map(abs, offset)) == 1
        if next_to or 0 < math.hypot(*(o * s for o, s in zip(offset, spacing, strict=True))) <= distance + 1e-6:
            core &= padded[tuple(slice(r + o, r + o + n) for r, o, n in zip(reach, offset, mask.shape, strict=True))]
    return core


def _grouped(rows: Sequence[Row], key: str) -> dict[Any, list[Row]]:
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.get(key), []).append(row)
    return groups


def _counts(rows: Sequence[Row]) -> dict[str, int]:
    return {status: sum(row["status"] == status for row in rows) for status in STATUSES}


def _mean_sd(values: Sequence[float | None]) -> dict[str, Any]:
    known = np.array([v for v in values if v is not None and not math.isnan(v)], dtype=np.float64)
    return {
        "mean": float(known.mean()) if len(known) else None,
        "sd": float(known.std(ddof=1)) if len(known) > 1 else None,
        "n": len(known),
    }

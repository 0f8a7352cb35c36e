"""Metrics: hand-computed values, the rule for empty structures, the summary."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from monai.metrics import (
    compute_confusion_matrix_metric,
    compute_hausdorff_distance,
    compute_surface_dice,
    get_confusion_matrix,
)
from scipy.ndimage import binary_erosion, distance_transform_edt, gaussian_filter

from common.metrics import boundary_iou, metric_names, segmentation_metrics, summarise

STRUCTURES = {"heart": 3, "tumor": 24}


def cube(start: tuple[int, int, int], size: int = 4, shape: tuple[int, int, int] = (14, 14, 14)) -> np.ndarray:
    volume = np.zeros(shape, np.uint8)
    volume[tuple(slice(s, s + size) for s in start)] = 3
    return volume


def heart(pred: np.ndarray, label: np.ndarray, **options: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {"spacing": (1.0, 1.0, 1.0), "structures": STRUCTURES}
    return segmentation_metrics(pred, label, **{**arguments, **options})[0]


def blobs(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (gaussian_filter(rng.normal(size=(24, 20, 16)), 2) > 0.03).astype(np.uint8) * 3


def test_equal_masks() -> None:
    row = heart(cube((5, 5, 5)), cube((5, 5, 5)), spacing=(2.0, 1.0, 0.5))
    assert row["status"] == "scored"
    assert (row["structure"], row["id"]) == ("heart", 3)
    assert (row["dsc"], row["hd"], row["hd95"], row["nsd_1mm"], row["sensitivity"], row["boundary_iou"]) == (
        *(1, 0, 0),
        *(1, 1, 1),
    )
    assert row["label_voxels"] == row["pred_voxels"] == 64
    assert row["label_ml"] == pytest.approx(0.064)


def test_cube_shifted_by_one_voxel_of_two_mm() -> None:
    """4 x 4 x 4 voxels against the same moved by 1 along the first axis, 2 mm."""
    row = heart(cube((6, 5, 5)), cube((5, 5, 5)), spacing=(2.0, 1.0, 1.0))
    assert row["dsc"] == pytest.approx(2 * 48 / 128)
    assert row["sensitivity"] == pytest.approx(48 / 64)
    assert row["hd"] == pytest.approx(2.0)
    # each surface has 64 - 8 = 56 voxels; the 16 of the far face are 2 mm from the other surface, those inside the
    # other cube at most 1 mm from one of its side faces
    assert row["nsd_1mm"] == pytest.approx(40 / 56)
    assert row["nsd_3mm"] == 1.0


@pytest.mark.parametrize("shift", [1, 2, 3])
def test_hausdorff_is_the_shift_in_mm(shift: int) -> None:
    row = heart(cube((5, 5, 5 + shift)), cube((5, 5, 5)), spacing=(0.7, 0.7, 2.5))
    assert row["hd"] == pytest.approx(2.5 * shift)


def test_hd95_leaves_out_a_twentieth_of_the_surface() -> None:
    label = cube((2, 2, 2), size=8)
    pred = label.copy()
    pred[13, 13, 13] = 3  # one far voxel beside some 300
    row = heart(pred, label)
    assert row["hd"] == pytest.approx(math.sqrt(3 * 16))
    assert row["hd95"] == 0
    assert row["nsd_1mm"] == pytest.approx((2 * 296) / (2 * 296 + 1))


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.8, 0.8, 2.5), (3.0, 1.1, 0.6)])
def test_equal_to_monais_own_functions(spacing: tuple[float, float, float]) -> None:
    pred, label = blobs(0), blobs(1)
    row = heart(pred, label, spacing=spacing, nsd_tolerances=(1.3, 2.9))
    one_hot = [torch.from_numpy(v == 3)[None, None] for v in (pred, label)]
    options = {"include_background": True, "spacing": list(spacing)}
    assert row["hd"] == pytest.approx(float(compute_hausdorff_distance(*one_hot, **options)), abs=1e-5)
    assert row["hd95"] == pytest.approx(float(compute_hausdorff_distance(*one_hot, percentile=95, **options)), abs=1e-5)
    for t in (1.3, 2.9):
        expected = float(compute_surface_dice(*one_hot, class_thresholds=[t], **options))
        assert row[f"nsd_{t}mm"] == pytest.approx(expected, abs=1e-6)
    confusion = get_confusion_matrix(*(m.float() for m in one_hot), include_background=True)
    expected = float(compute_confusion_matrix_metric("sensitivity", confusion))
    assert row["sensitivity"] == pytest.approx(expected, abs=1e-6)


def test_surroundings_do_not_matter() -> None:
    """Only the box around both masks is looked at; the volume may end there."""
    pred, label = blobs(2), blobs(3)
    padded = [np.pad(v, ((3, 9), (5, 0), (1, 2))) for v in (pred, label)]
    assert heart(pred, label) == heart(*padded)


def test_boundary_iou_of_shifted_squares_by_hand() -> None:
    """10 x 10 pixels, border 2 thick: 64 of 100 each. Moved by 1: rows and columns counted by hand below."""
    label, pred = np.zeros((2, 16, 16), bool)
    label[2:12, 2:12] = True
    pred[3:13, 2:12] = True
    # common: side columns (2 + 2) x 9 rows = 36; rows 3 (label rows 2, 3; pred rows 3, 4) and 11: 6 pixels inside each
    assert boundary_iou(pred, label, spacing=(1, 1), distance=2.0) == pytest.approx(48 / (64 + 64 - 48))


def test_boundary_band_is_that_of_the_paper_on_isotropic_voxels() -> None:
    """Band of d voxels = the mask minus d erosions along the axes, for a cube; distance in mm."""
    label = cube((2, 2, 2), size=10) == 3
    pred = cube((3, 2, 2), size=10) == 3
    for d in (1, 2, 3):
        bands = [m & ~binary_erosion(m, iterations=d, structure=np.ones((3, 3, 3))) for m in (pred, label)]
        expected = (bands[0] & bands[1]).sum() / (bands[0] | bands[1]).sum()
        assert boundary_iou(pred, label, spacing=(1.5, 1.5, 1.5), distance=1.5 * d) == pytest.approx(expected)


@pytest.mark.parametrize(("spacing", "distance"), [((0.9, 0.9, 0.9), 2.0), ((0.7, 1.1, 3.0), 2.0), ((5, 5, 5), 2.0)])
def test_boundary_band_equals_a_distance_transform(spacing: tuple[float, float, float], distance: float) -> None:
    masks = [blobs(seed) == 3 for seed in (4, 5)]
    bands = []
    for mask in masks:
        to_outside = distance_transform_edt(np.pad(mask, 1), sampling=spacing)[1:-1, 1:-1, 1:-1]
        bands.append(mask & ((to_outside <= distance) | ~binary_erosion(mask)))
    expected = (bands[0] & bands[1]).sum() / (bands[0] | bands[1]).sum()
    assert boundary_iou(*masks, spacing=spacing, distance=distance) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("pred", "label", "status", "zero"),
    [
        (False, False, "both empty", ()),
        (False, True, "missed", ("dsc", "nsd_1mm", "nsd_3mm", "sensitivity", "boundary_iou")),
        (True, False, "invented", ("dsc", "nsd_1mm", "nsd_3mm", "boundary_iou")),
    ],
)
def test_rule_for_empty_structures(pred: bool, label: bool, status: str, zero: tuple[str, ...]) -> None:
    row = heart(*(cube((5, 5, 5)) * there for there in (pred, label)))
    assert row["status"] == status
    for name in metric_names():
        assert row[name] == 0 if name in zero else math.isnan(row[name]), name
    assert (row["pred_voxels"], row["label_voxels"]) == (64 * pred, 64 * label)


def test_only_annotated_structures_are_scored() -> None:
    """A structure the label does not know about is background in the mask too."""
    label = cube((5, 5, 5))
    pred = label.copy()
    pred[label == 0] = 24
    rows = segmentation_metrics(pred, label, spacing=(1, 1, 1), structures=STRUCTURES, annotated=[3])
    assert rows[0]["status"] == "scored"
    assert rows[0]["dsc"] == 1
    assert rows[1]["status"] == "not annotated"
    assert all(math.isnan(rows[1][name]) for name in (*metric_names(), "pred_voxels", "label_voxels"))
    everything = segmentation_metrics(pred, label, spacing=(1, 1, 1), structures=STRUCTURES)
    assert everything[1]["status"] == "invented"


def test_tensors_with_a_channel_and_two_dimensions() -> None:
    label, pred = torch.zeros(1, 8, 8, dtype=torch.uint8), torch.zeros(1, 8, 8, dtype=torch.int64)
    label[0, 2:6, 2:6] = 3
    pred[0, 3:7, 2:6] = 3
    row = segmentation_metrics(pred, label, spacing=(1, 1), structures=STRUCTURES)[0]
    assert row["dsc"] == pytest.approx(0.75)
    assert row["hd"] == 1


def test_misuse_is_named() -> None:
    with pytest.raises(ValueError, match="same grid"):
        segmentation_metrics(np.zeros((4, 4, 4)), np.zeros((4, 4, 5)), spacing=(1, 1, 1), structures=STRUCTURES)
    with pytest.raises(ValueError, match="expected 3 axes"):
        segmentation_metrics(np.zeros((2, 4, 4, 4)), np.zeros((4, 4, 4)), spacing=(1, 1, 1), structures=STRUCTURES)
    with pytest.raises(ValueError, match="mm > 0"):
        segmentation_metrics(np.zeros((4, 4, 4)), np.zeros((4, 4, 4)), spacing=(1, 0, 1), structures=STRUCTURES)


def test_summary_over_cases_and_structures() -> None:
    nan = math.nan
    rows = [
        {"case": "a", "structure": "heart", "id": 3, "status": "scored", "dsc": 0.8, "hd": 2.0},
        {"case": "a", "structure": "tumor", "id": 24, "status": "missed", "dsc": 0.0, "hd": nan},
        {"case": "b", "structure": "heart", "id": 3, "status": "scored", "dsc": 0.6, "hd": 4.0},
        {"case": "b", "structure": "tumor", "id": 24, "status": "not annotated", "dsc": nan, "hd": nan},
        {"case": "c", "structure": "heart", "id": 3, "status": "scored", "dsc": 1.0, "hd": 0.0},
        {"case": "c", "structure": "tumor", "id": 24, "status": "both empty", "dsc": nan, "hd": nan},
    ]
    rows = [{**row, "label_ml": 1.0, "pred_ml": 3.0} for row in rows]
    summary = summarise(rows)
    assert summary["n_cases"] == 3
    assert summary["counts"] == {"scored": 3, "missed": 1, "invented": 0, "both empty": 1, "not annotated": 1}
    heart_row = summary["structures"]["heart"]
    assert heart_row["dsc"] == {"mean": pytest.approx(0.8), "sd": pytest.approx(0.2), "n": 3}
    assert heart_row["hd"] == {"mean": pytest.approx(2.0), "sd": pytest.approx(2.0), "n": 3}
    tumor = summary["structures"]["tumor"]
    assert tumor["dsc"] == {"mean": 0.0, "sd": None, "n": 1}
    assert tumor["hd"] == {"mean": None, "sd": None, "n": 0}
    assert tumor["counts"]["missed"] == 1
    # cases: (0.8 + 0) / 2, 0.6, 1.0
    assert summary["over_cases"]["dsc"]["mean"] == pytest.approx(2 / 3)
    assert summary["over_cases"]["dsc"]["sd"] == pytest.approx(np.std([0.4, 0.6, 1.0], ddof=1))
    assert summary["over_structures"]["dsc"]["mean"] == pytest.approx(0.4)
    assert summary["over_structures"]["dsc"]["n"] == 2


def test_summary_of_nothing() -> None:
    assert summarise([])["n_cases"] == 0

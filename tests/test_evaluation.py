"""Evaluation with a network whose masks are known, and of masks in a folder."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.inferers import SimpleInferer
from monai.transforms import Compose, Orientationd

from common.errors import InputError
from common.evaluation import Evaluation, evaluate_masks
from common.metrics import known_groups, metric_names
from common.transforms.argmax import ArgmaxChannelsd
from common.transforms.load import LoadVolumed
from common.transforms.restore import RestoreGridd
from common.transforms.spacing import SafeSpacingd
from common.transforms.structures import ChannelsToIdsd

STRUCTURES = {"heart": 3, "tumor": 24}
AFFINE = np.array([[0, -1.0, 0, 5], [1, 0, 0, -3], [0, 0, 2, 9], [0, 0, 0, 1]])


class Threshold(torch.nn.Module):
    """Heart where the HU lie above 100, tumour above 500."""

    def forward(self, hu: torch.Tensor) -> torch.Tensor:
        assert not self.training
        assert hu.ndim == 5
        zero = torch.zeros_like(hu)
        return torch.cat([zero, (hu - 100), torch.where(hu > 500, hu, -1)], dim=1)


def write(path: Path, volume: np.ndarray, affine: np.ndarray = AFFINE) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(volume, affine), path)
    return str(path)


def case(folder: Path, name: str, *, tumour: bool = True, **entries: Any) -> dict[str, Any]:
    """The image shows a heart one voxel longer than the label's, and a tumour that the label may not have."""
    label = np.zeros((12, 10, 8), np.uint8)
    label[2:8, 2:8, 2:6] = 3
    hu = np.full(label.shape, -800, np.int16)
    hu[2:9, 2:8, 2:6] = 200
    hu[10, 8, 6] = 900
    if tumour:
        label[10, 8, 6] = 24
    return {
        "image": write(folder / f"images/{name}.nii.gz", hu),
        "label": write(folder / f"labels/{name}.nii.gz", label),
        "case": name,
        **entries,
    }


def evaluation(items: list[dict[str, Any]], folder: Path, **options: Any) -> Evaluation:
    arguments: dict[str, Any] = {
        "items": items,
        "preprocessing": Compose(
            [
                LoadVolumed(keys="image"),
                Orientationd(keys="image", axcodes="RAS", labels=None),
                SafeSpacingd(keys="image", pixdim=(-1, -1, -1)),
            ]
        ),
        "inferer": SimpleInferer(),
        "network": Threshold(),
        "postprocessing": Compose(
            [ArgmaxChannelsd(), RestoreGridd(), ChannelsToIdsd(keys="pred", structures=STRUCTURES)]
        ),
        "structures": STRUCTURES,
        "output_dir": folder / "out",
    }
    return Evaluation(**{**arguments, **options})


def read_csv(folder: Path) -> list[dict[str, str]]:
    with open(folder / "out/metrics.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_files_and_values(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    items = [
        case(tmp_path, "a", annotated=[3, 24]),
        case(tmp_path, "b", annotated=[3], tumour=False),
        case(tmp_path, "c", tumour=False),
        {"image": "unlabelled.nii.gz", "case": "d"},
    ]
    with caplog.at_level(logging.INFO):
        report = evaluation(items, tmp_path).run()
    rows = read_csv(tmp_path)
    assert list(rows[0]) == [
        *("case", "structure", "id", "status"),
        *metric_names(),
        *("label_voxels", "pred_voxels", "label_ml", "pred_ml"),
    ]
    assert [(r["case"], r["structure"], r["status"]) for r in rows] == [
        ("a", "heart", "scored"),
        ("a", "tumor", "scored"),
        ("b", "heart", "scored"),
        ("b", "tumor", "not annotated"),
        ("c", "heart", "scored"),
        ("c", "tumor", "invented"),
    ]
    assert float(rows[0]["dsc"]) == pytest.approx(2 * 144 / (144 + 168), abs=1e-5)
    assert float(rows[0]["hd"]) == 1.0
    assert float(rows[0]["label_ml"]) == pytest.approx(0.288)
    assert float(rows[1]["dsc"]) == 1.0
    assert rows[3]["dsc"] == rows[5]["hd"] == ""
    assert float(rows[5]["dsc"]) == 0.0

    written = json.loads((tmp_path / "out/metrics.json").read_text())
    assert written["structures"]["heart"]["dsc"]["n"] == 3
    assert written["structures"]["tumor"]["dsc"] == {"mean": 0.5, "sd": pytest.approx(0.5**0.5), "n": 2}
    assert written["structures"]["tumor"]["counts"]["not annotated"] == 1
    assert "Both empty" in written["rule"]
    assert written["nsd_tolerances_mm"] == [1.0, 3.0]
    assert written["versions"]["torch"] == torch.__version__
    assert set(written["cases"]) == {"a", "b", "c"}
    assert written["cases"]["a"]["spacing_mm"] == [1.0, 1.0, 2.0]
    assert written["failed"] == {}
    assert report["structures"] == written["structures"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["metrics.csv", "metrics.json"]
    assert "1 of 4 cases have no label" in caplog.text
    assert "heart" in caplog.text


def test_labels_are_measured_where_they_were_drawn(tmp_path: Path) -> None:
    """A network grid of 2 mm: the mask comes back to 1 x 1 x 2 mm before it is compared."""
    coarse = Compose(
        [
            LoadVolumed(keys="image"),
            Orientationd(keys="image", axcodes="RAS", labels=None),
            SafeSpacingd(keys="image", pixdim=(2, 2, 2), mode="nearest"),
        ]
    )
    evaluation([case(tmp_path, "a")], tmp_path, preprocessing=coarse).run()
    row = read_csv(tmp_path)[0]
    assert row["label_voxels"] == "144"
    assert int(row["pred_voxels"]) > 100  # 40 at 2 mm
    assert float(row["dsc"]) > 0.7


def test_a_bad_case_does_not_stop_the_others(tmp_path: Path) -> None:
    broken = case(tmp_path, "b")
    Path(broken["image"]).write_bytes(b"nothing")
    shifted = case(tmp_path, "c")
    write(tmp_path / "labels/c.nii.gz", np.zeros((12, 10, 7), np.uint8))
    unknown = case(tmp_path, "d", known_ids=[3])
    with pytest.raises(InputError, match=r"3 of 4 cases failed \(b, c, d\).*b\.nii\.gz"):
        evaluation([case(tmp_path, "a"), broken, shifted, unknown], tmp_path).run()
    assert {row["case"] for row in read_csv(tmp_path)} == {"a"}
    failed = json.loads((tmp_path / "out/metrics.json").read_text())["failed"]
    assert "another grid" in failed["c"]
    assert "unknown label ids 24" in failed["d"]


def test_defects_of_the_program_are_not_swallowed(tmp_path: Path) -> None:
    class Broken(torch.nn.Module):
        def forward(self, _: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("a defect")

    with pytest.raises(RuntimeError, match="a defect"):
        evaluation([case(tmp_path, "a")], tmp_path, network=Broken()).run()
    assert not (tmp_path / "out").exists()


def test_nothing_to_measure(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no case has a label"):
        evaluation([{"image": "a.nii.gz"}], tmp_path).run()


def test_masks_of_a_folder(tmp_path: Path) -> None:
    label = np.zeros((8, 8, 8), np.uint8)
    label[2:6, 2:6, 2:6] = 3
    for name in "abc":
        write(tmp_path / f"labels/{name}.nii.gz", label)
    write(tmp_path / "masks/a_seg.nii.gz", label)
    write(tmp_path / "masks/b.nii.gz", np.roll(label, 1, axis=0))
    with pytest.raises(InputError, match=r"1 of 3 cases failed \(c\).*no mask for .*c\.nii\.gz"):
        evaluate_masks(
            tmp_path / "masks",
            tmp_path / "labels",
            structures=STRUCTURES,
            output_dir=tmp_path / "out",
            annotated={"a": [3]},
            nsd_tolerances=(2.0,),
        )
    rows = read_csv(tmp_path)
    assert [(r["case"], r["status"]) for r in rows] == [
        ("a", "scored"),
        ("a", "not annotated"),
        ("b", "scored"),
        ("b", "both empty"),
    ]
    assert [float(r["dsc"]) for r in rows if r["dsc"]] == [1.0, 0.75]
    assert "nsd_2mm" in rows[0]
    with pytest.raises(InputError, match="no label files"):
        evaluate_masks(tmp_path / "masks", tmp_path, structures=STRUCTURES, output_dir=tmp_path / "out")


def test_groups_of_structures_are_measured_as_one(tmp_path: Path) -> None:
    items = [case(tmp_path, "a"), case(tmp_path, "b", annotated=[3])]
    groups = {"both": ["heart", "tumor"], "heart alone": ["heart"]}
    with pytest.raises(ValueError, match="groups"):
        evaluation(items, tmp_path, groups=groups).run()
    report = evaluation(items, tmp_path, groups={"both": ["heart", "tumor"]}).run()
    with open(tmp_path / "out/groups.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(r["case"], r["structure"], r["status"]) for r in rows] == [
        ("a", "both", "scored"),
        ("b", "both", "not annotated"),
    ]
    # heart 144 of 168 voxels, and the tumour's one
    assert float(rows[0]["dsc"]) == pytest.approx(2 * 145 / (145 + 169), abs=1e-5)
    assert report["groups"]["both"]["dsc"]["n"] == 1
    assert {row["structure"] for row in read_csv(tmp_path)} == {"heart", "tumor"}


def test_groups_keep_what_the_network_knows() -> None:
    groups = {"vessels": ["aorta", "heart"], "bones": ["vertebrae"]}
    assert known_groups(groups=groups, structures=STRUCTURES) == {"vessels": ["heart"]}

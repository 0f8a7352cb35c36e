"""Pictures of what would be hidden."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from common.transforms.load import LoadVolumed


@pytest.fixture(scope="module")
def script() -> ModuleType:
    path = Path(__file__).resolve().parent.parent / "scripts" / "draw_masks.py"
    spec = importlib.util.spec_from_file_location("draw_masks_script", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_intervals_in_hu(script: ModuleType) -> None:
    """METHODS 6.4."""
    eight = script.bins_in_hu(8)
    assert eight == [
        "up to -599 HU",
        "-598 to -118 HU",
        "-117 to -61 HU",
        "-60 to -4 HU",
        "-3 to 52 HU",
        "53 to 110 HU",
        "111 to 174 HU",
        "from 175 HU",
    ]
    sixteen = script.bins_in_hu(16)
    assert sixteen[:2] == ["up to -850 HU", "-849 to -599 HU"]
    assert sixteen[15] == "edges only"


@pytest.mark.parametrize("what", ["tissue", "lesion"])
def test_pictures_are_written(
    script: ModuleType,
    what: str,
    phantom_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    case = sorted((phantom_dir / "imagesTr").glob("*.nii.gz"))[0]
    picture = tmp_path / "picture.png"
    arguments = [what, str(case), str(picture), "--label", str(phantom_dir / "labelsTr" / case.name)]
    arguments += ["--spacing", "6", "--patch_size", "8", "--roi_size", "32"]
    monkeypatch.setattr(sys, "argv", ["draw_masks.py", *arguments])
    script.main()
    assert picture.stat().st_size > 10_000
    if what == "lesion":
        assert capsys.readouterr().out.count("of the tumour is among the 25% hidden first") == 2


def test_a_crop_holds_whole_patches_and_the_label_is_optional(script: ModuleType, phantom_dir: Path) -> None:
    case = sorted((phantom_dir / "imagesTr").glob("*.nii.gz"))[0]
    hu = LoadVolumed(keys="image")({"image": str(case)})["image"].as_tensor().float()
    figure = script.draw_lesion(hu, None, patch_size=10, roi=96, window=(0, 300))
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[:3] == ["input", "foreground", "hidden first"]

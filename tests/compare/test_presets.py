"""The papers' ablations that bundles bring along."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from monai.bundle import ConfigParser

from common.compare.arms import Cell
from common.compare.bundles import Bundle
from common.compare.options import Options
from common.compare.plan import Plan
from common.compare.presets import find_variants, presets_of
from common.errors import InputError
from tests.bundles.discovery import BUNDLES, REPOSITORY
from tests.bundles.running import TINY

ROWS = [
    (bundle, preset, row)
    for bundle in (Bundle(path, (str(TINY),)) for path in BUNDLES)
    for preset, rows in presets_of(bundle).items()
    for row in rows
]


@pytest.mark.parametrize(("bundle", "preset", "row"), ROWS, ids=[f"{b.name}/{p}/{r}" for b, p, r in ROWS])
def test_every_row_changes_the_method_or_its_loss(bundle: Bundle, preset: str, row: str) -> None:
    """Its settings exist, the method and the loss accept them, and something is different."""
    overrides = presets_of(bundle)[preset][row]
    assert row.isascii()
    assert " " not in row  # it names a folder
    assert (bundle.known(overrides, "pretrain") | bundle.known(overrides, "train")).keys() == overrides.keys()
    config = bundle.config("pretrain", overrides=overrides)
    assert config != bundle.config("pretrain")
    parser = ConfigParser({**config, "device": "cpu"})
    parser.get_parsed_content("method")
    parser.get_parsed_content("loss")


def test_rows_of_a_preset_are_further_arms(phantom_dir: Path, tmp_path: Path) -> None:
    plan = Plan(
        Options(
            dataset_dir=str(phantom_dir),
            out_dir=str(tmp_path),
            bundles_dir=str(REPOSITORY / "bundles"),
            methods=("tcs_mae",),
            presets=("tcs_mae/table5",),
            overlays=(str(TINY),),
        )
    )
    arms = plan.by_name
    assert set(arms) == {
        "scratch MixTransformerUNet",
        *("tcs_mae", "tcs_mae.no_contrast", "tcs_mae.one_level", "tcs_mae.three_levels"),
    }
    row = plan.pretrain(arms["tcs_mae.no_contrast"], 0)
    assert row.arguments["contrast"] == "none"
    assert row.key == "pretrain/tcs_mae.no_contrast/p0"
    assert "contrast" not in plan.pretrain(arms["tcs_mae"], 0).arguments


def test_arguments_of_components_are_those_of_pretraining(phantom_dir: Path, tmp_path: Path) -> None:
    """Both stages have a ``loss``; a row that changes the method's must not change fine-tuning's."""
    shutil.copytree(REPOSITORY / "bundles" / "isd_mae", tmp_path / "isd_mae")
    presets = tmp_path / "isd_mae" / "configs" / "presets.json"
    presets.write_text(json.dumps({"mine": {"row": {"loss#learnable": True, "patch_size": 4}}}))
    plan = Plan(
        Options(
            dataset_dir=str(phantom_dir),
            out_dir=str(tmp_path / "out"),
            bundles_dir=str(tmp_path),
            presets=("isd_mae/mine",),
        )
    )
    arm = plan.by_name["isd_mae.row"]
    assert plan.pretrain(arm, 0).arguments["loss#learnable"] is True
    train = plan.train(Cell(arm, 1.0), 0, 0)
    assert train.arguments["patch_size"] == 4
    assert not any("loss#learnable" in run.arguments for run in (train, plan.test(train, Cell(arm, 1.0))))
    assert arm.baseline == plan.by_name["isd_mae"].baseline


def test_unknown_presets_and_settings_name_the_nearest(tmp_path: Path, phantom_dir: Path) -> None:
    shutil.copytree(REPOSITORY / "bundles" / "isd_mae", tmp_path / "isd_mae")
    bundle = Bundle(tmp_path / "isd_mae")
    with pytest.raises(InputError, match="Did you mean isd_mae/table3"):
        find_variants([bundle], ["isd_mae/table4"])
    (bundle.root / "configs" / "presets.json").write_text(json.dumps({"mine": {"row": {"patch_sise": 4}}}))
    with pytest.raises(InputError, match=r"isd_mae.row: no setting 'patch_sise' in isd_mae. Did you mean patch_size"):
        Plan(
            Options(
                dataset_dir=str(phantom_dir),
                out_dir=str(tmp_path / "out"),
                bundles_dir=str(tmp_path),
                presets=("isd_mae/mine",),
            )
        )


def test_a_bundle_without_presets_has_none(tmp_path: Path) -> None:
    assert presets_of(Bundle(tmp_path)) == {}

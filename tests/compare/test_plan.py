"""Arms, pairs and arguments of a comparison, read from the plan without running it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from common.arguments import check_arguments
from common.compare.arms import Cell, Run
from common.compare.bundles import Bundle, downstream
from common.compare.options import Options
from common.compare.plan import Plan
from common.errors import InputError
from common.methods.baselines import BASELINES
from tests.bundles.discovery import NAMES, REPOSITORY
from tests.bundles.running import TINY

ITEMS = {
    "pretrain": ("cases",),
    "train": ("train#dataset#data", "validate#dataset#data"),
    "test": ("evaluation#items",),
}


@pytest.fixture
def make_plan(phantom_dir: Path, tmp_path: Path):
    def make(**options: Any) -> Plan:
        fixed = {"bundles_dir": str(REPOSITORY / "bundles"), "overlays": (str(TINY),), "seeds": 2}
        return Plan(Options(dataset_dir=str(phantom_dir), out_dir=str(tmp_path / "out"), **{**fixed, **options}))

    return make


def cases(run: Run, key: str) -> list[str]:
    return [item["case"] for item in run.arguments[key]]


def test_every_bundle_is_compared_with_the_network_it_fine_tunes(make_plan) -> None:
    plan = make_plan()
    assert {arm.name for arm in plan.arms if arm.kind == "pretrained"} == set(NAMES)
    for arm in plan.arms:
        baseline = plan.by_name[arm.baseline]
        assert baseline.kind == "scratch"
        assert baseline.network == arm.network


def test_bundles_of_one_network_share_a_baseline(make_plan) -> None:
    plan = make_plan(methods=("isd_mae", "tcs_mae", "amlp", "baselines"), presets=("baselines/all",))
    arms = plan.by_name
    rows = [name for name in BASELINES if name != "mae"]
    names = ("isd_mae", "tcs_mae", "baselines", *(f"baselines.{row}" for row in rows))
    shared = {arms[name].baseline for name in names}
    assert shared == {"scratch MixTransformerUNet"}
    assert arms["amlp"].baseline == "scratch BasicUNet"
    assert sum(arm.kind == "scratch" for arm in plan.arms) == 2


def test_what_changes_a_training_from_scratch_changes_its_baseline() -> None:
    """The input, the network and the recipe count; names, masking and learning rates do not."""
    bundle = Bundle(REPOSITORY / "bundles" / "isd_mae", (str(TINY),))
    same = downstream(bundle.config("train"))
    for change in ({"n_bins": 3}, {"lr": 1.0}, {"output_dir": "x"}, {"pretrain_epochs": 7}):
        assert downstream(bundle.config("train", overrides=change)) == same, change
    for change in ({"edge": "volume"}, {"backbone": "b1"}, {"spacing": [1, 1, 1]}, {"steps": 9}, {"rotate_degrees": 0}):
        assert downstream(bundle.config("train", overrides=change)) != same, change


def test_which_parts_a_baseline_leaves_fresh_does_not_change_its_network_from_scratch() -> None:
    bundle = Bundle(REPOSITORY / "bundles" / "baselines", (str(TINY),))
    same = downstream(bundle.config("train"))
    for change in ({"baseline": "maskfeat"}, {"fresh_parts": ["decoder", "head"]}):
        assert downstream(bundle.config("train", overrides=change)) == same


def test_all_arms_of_a_seed_share_its_cases_and_its_seed(make_plan) -> None:
    plan = make_plan(label_fractions=(0.34, 1.0))
    for fraction in (0.34, 1.0):
        for seed in range(2):
            runs = [plan.train(Cell(arm, fraction), seed, 0) for arm in plan.arms]
            for key in ITEMS["train"]:
                assert len({tuple(cases(run, key)) for run in runs}) == 1
            assert {run.arguments["seed"] for run in runs} == {seed}


def test_nothing_that_is_scored_is_trained_or_pretrained_on(make_plan) -> None:
    plan = make_plan(label_fractions=(0.34, 1.0))
    for arm in plan.arms:
        for seed in range(2):
            train = plan.train(Cell(arm, 1.0), seed, 1)
            val, test = (
                set(cases(train, "validate#dataset#data")),
                set(cases(plan.test(train, Cell(arm, 1.0)), "evaluation#items")),
            )
            seen = set(cases(train, "train#dataset#data"))
            seen |= set(cases(plan.pretrain(arm, seed), "cases"))
            assert val
            assert test
            assert not seen & (val | test)
            assert not val & test


def test_scratch_takes_no_weights_and_searches_as_many_rates(make_plan) -> None:
    plan = make_plan(lr=(0.001, 0.003), scratch_lr=(0.002, 0.004, 0.008), methods=("isd_mae",))
    scratch, method = plan.by_name["scratch MixTransformerUNet"], plan.by_name["isd_mae"]
    assert plan.candidates(scratch) == [(0.002, 1.0), (0.004, 1.0), (0.008, 1.0)]
    assert plan.candidates(method) == [(0.001, 0.25), (0.003, 0.25)]
    assert plan.train(Cell(scratch, 1.0), 0, 0).arguments["pretrain_epochs"] == 0
    fine_tuning = plan.train(Cell(method, 1.0), 0, 0).arguments
    assert fine_tuning["pretrained"] == plan.pretrain(method, 0).arguments["pretrained"]
    assert fine_tuning["pretrained_as_is"]
    with pytest.raises(InputError, match="untuned baseline"):
        make_plan(lr=(0.001, 0.003), scratch_lr=(0.001,))


def test_rates_are_the_bundles_own_times_the_factors_unless_given(make_plan) -> None:
    plan = make_plan(methods=("isd_mae", "anatomask"), overlays=("smoke",))
    own = {name: plan.by_name[name].bundle.config("train")["lr"] for name in ("isd_mae", "anatomask")}
    assert own["isd_mae"] != own["anatomask"]
    for name, lr in own.items():
        arm = plan.by_name[name]
        assert [rate for rate, _ in plan.candidates(arm)] == pytest.approx([0.3 * lr, lr, 3 * lr])
        assert [rate for rate, _ in plan.candidates(plan.by_name[arm.baseline])] == pytest.approx(
            [0.3 * lr, lr, 3 * lr]
        )
    plan = make_plan(methods=("isd_mae",), lr_factors=(2.0,), scratch_lr=(0.5,))
    own_tiny = plan.by_name["isd_mae"].bundle.config("train")["lr"]
    assert plan.candidates(plan.by_name["isd_mae"]) == [(2 * own_tiny, 0.25)]
    assert plan.candidates(plan.by_name["scratch MixTransformerUNet"]) == [(0.5, 1.0)]


def test_scratch_may_choose_every_rate_that_those_compared_with_it_may(make_plan, tmp_path: Path) -> None:
    for name, lr in (("isd_mae", 0.001), ("mine", 0.01)):
        configs = tmp_path / "b" / name / "configs"
        shutil.copytree(REPOSITORY / "bundles" / "isd_mae" / "configs", configs)
        content = json.loads((configs / "train.json").read_text())
        (configs / "train.json").write_text(json.dumps({**content, "lr": lr, "body_lr_factor": 10 * lr}))
    overlay = tmp_path / "overlay.json"
    overlay.write_text("{}")
    plan = make_plan(bundles_dir=str(tmp_path / "b"), lr_factors=(1.0, 10.0), overlays=(str(overlay),))
    assert plan.candidates(plan.by_name["isd_mae"]) == [(0.001, 0.01), (0.01, 0.01)]
    assert plan.candidates(plan.by_name["mine"]) == [(0.01, 0.1), (0.1, 0.1)]
    scratch = [arm for arm in plan.arms if arm.kind == "scratch"]
    assert [plan.candidates(arm) for arm in scratch] == [[(0.001, 1.0), (0.01, 1.0), (0.1, 1.0)]]
    plan = make_plan(bundles_dir=str(tmp_path / "b"), body_lr_factor=0.5, overlays=(str(overlay),))
    assert {factor for _, factor in plan.candidates(plan.by_name["mine"])} == {0.5}


def test_budgets_are_equal_and_exact(make_plan) -> None:
    plan = make_plan(steps=12, validations=3, pretrain_steps=7)
    for arm in plan.arms:
        run = plan.train(Cell(arm, 1.0), 0, 0)
        assert run.steps == run.arguments["epochs"] * run.arguments["steps"] == 12
        assert (run.arguments["epochs"], run.arguments["val_interval"]) == (3, 1)
        assert plan.pretrain(arm, 0).steps == 7  # of two epochs, only one divides it
    with pytest.raises(InputError, match="not a multiple of validations"):
        make_plan(steps=10, validations=4)


def test_seeds_share_pretrainings_in_turn(make_plan) -> None:
    plan = make_plan(seeds=4, pretrain_seeds=2, methods=("isd_mae",))
    keys = [plan.pretrain(plan.by_name["isd_mae"], seed).key for seed in range(4)]
    assert keys == ["pretrain/isd_mae/p0", "pretrain/isd_mae/p1"] * 2


def test_long_scratch_is_an_arm_of_its_own(make_plan) -> None:
    plan = make_plan(scratch_long=True, methods=("isd_mae",))
    arm = plan.by_name["scratch MixTransformerUNet long"]
    run = plan.train(Cell(arm, 1.0), 0, 0, steps=11)
    assert run.steps == 12  # of two epochs
    assert run.arguments["pretrain_epochs"] == 0


def test_commands_accept_their_arguments(make_plan, tmp_path: Path) -> None:
    """No argument is one that a bundle would refuse as mistyped."""
    plan = make_plan(overrides={"spacing": [6.0, 6.0, 6.0], "n_bins": 4}, device="cpu")
    for arm in plan.arms:
        train = plan.train(Cell(arm, 1.0), 0, 0)
        for run in (
            train,
            plan.pretrain(arm, 0),
            plan.test(train, Cell(arm, 1.0)),
            plan.example(train, Cell(arm, 1.0)),
        ):
            file = tmp_path / "arguments.json"
            file.write_text(json.dumps({"config_file": run.bundle.files(*run.configs), **run.arguments}))
            check_arguments(["monai.bundle", "run", "--args_file", str(file)])
            assert run.arguments["spacing"] == [6.0, 6.0, 6.0]
            assert ("n_bins" in run.arguments) == ("n_bins" in run.bundle.config(*run.configs))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": ("isd_mea",)}, "Did you mean isd_mae"),
        ({"label_fractions": (0.05,)}, "leaves no labelled case"),
        ({"label_fractions": (1.0, 0.99)}, "both 3 labelled cases"),
        ({"label_fractions": (0.0,)}, "above 0"),
        ({"overrides": {"spacingg": 1}}, "no setting .spacingg. in .*Did you mean spacing"),
        ({"overlays": ("smok",)}, "smok is a file"),
        ({"presets": ("isd_mae/nothing",)}, "no 'isd_mae/nothing'"),
        ({"seeds": 0}, "seeds: 0"),
        ({"seeds": 1, "search_seeds": 2}, "less than"),
        ({"lr": (-1.0,)}, "lr: .*above 0"),
        ({"lr_factors": ()}, "lr_factors: .*above 0"),
    ],
)
def test_bad_options_are_refused_before_anything_runs(make_plan, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_plan(**options)


def test_a_folder_without_bundles_says_so(make_plan, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--bundles_dir"):
        make_plan(bundles_dir=str(tmp_path))


def test_a_bundle_that_cannot_be_compared_says_why(make_plan, tmp_path: Path) -> None:
    shutil.copytree(REPOSITORY / "bundles" / "isd_mae" / "configs", tmp_path / "b" / "mine" / "configs")
    file = tmp_path / "b" / "mine" / "configs" / "pretrain.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({key: value for key, value in content.items() if key != "cases"}))
    with pytest.raises(InputError, match=r"pretrain.json has no 'cases'"):
        make_plan(bundles_dir=str(tmp_path / "b"))

"""Runs, choices and failures, with a bundle whose commands take no training."""

from __future__ import annotations

import csv
import json
import multiprocessing
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import common.compare.run
from common.cli import compare
from common.compare.arms import Cell
from common.compare.options import Options
from common.compare.plan import Plan
from common.compare.results import Results
from common.compare.run import RunFailedError, check_settings, execute, record_of
from common.compare.schedule import Schedule
from common.errors import InputError

# stands for `monai.bundle run`: validation Dice depends on the learning rate alone, the loss is not finite above 0.5,
# a rate of 0.2 does not work with pretrained weights, and those are worth 0.1 of test Dice
COMMAND = """
import json, os, shutil, sys, time

arguments = json.load(open(sys.argv[1]))
folder, lr = arguments["output_dir"], arguments.get("lr", 0.01)
os.makedirs(folder, exist_ok=True)
time.sleep(float(os.environ.get("FAKE_SECONDS", 0)))
if "evaluation#items" in arguments:
    content = json.load(open(arguments["model"] + ".json"))
    with open(f"{folder}/metrics.csv", "w") as file:
        file.write("case,structure,dsc\\n")
        for item in arguments["evaluation#items"]:
            for name, dice in (("heart", 0.5), ("tumor", 0.0)):
                dice += 0.1 * content["pretrained"] + 0.01 * content["seed"]
                file.write(f"{item['case']},{name},{dice}\\n")
elif "seed" in arguments:
    pretrained = "pretrained_as_is" in arguments
    if pretrained and lr == 0.2:
        raise RuntimeError("the disk is gone")
    status = "complete" if lr < 0.5 else "ended by FloatingPointError"
    report = {"status": status, "seconds": 2.0, "best_metric": 1 - abs(lr - 0.01), "device": "cpu", "versions": {}}
    json.dump(report, open(f"{folder}/run.json", "w"))
    if status != "complete":
        raise FloatingPointError("loss")
    model = arguments.get("model", f"{folder}/ssl.pt")
    shutil.copy(os.environ["FAKE_MODEL"], model)
    json.dump({"pretrained": pretrained, "seed": arguments["seed"]}, open(model + ".json", "w"))
    open(f"{folder}/resume.pt", "w").close()
"""
SHARED = {"bundle_root": ".", "dataset_dir": ".", "output_dir": ".", "seed": 0, "roi_size": [8, 8, 8]}
PRETRAIN = {"pretrained": "ssl.pt", "pretrain_epochs": 2, "pretrain_steps": 5, "pretrain_batch_size": 1, "cases": []}
TRAIN = {"model": "model.pt", "epochs": 2, "steps": 5, "val_interval": 1, "batch_size": 1, "structures": {"heart": 3}}
TRAIN |= {"network_def": {"_target_": "torch.nn.Identity"}, "lr": 0.001, "body_lr_factor": 0.25}
TRAIN |= {"train": {"dataset": {"data": []}}, "validate": {"dataset": {"data": []}}}
CONFIGS = {"pretrain": {**SHARED, **PRETRAIN}, "train": {**SHARED, **TRAIN}, "evaluate": {}, "inference": SHARED}


@pytest.fixture
def options(tmp_path: Path, phantom_dir: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Settings of a comparison of one method that needs no training, and two seeds."""
    configs = tmp_path / "bundles" / "quick" / "configs"
    configs.mkdir(parents=True)
    for name, content in CONFIGS.items():
        (configs / f"{name}.json").write_text(json.dumps(content))
    (tmp_path / "command.py").write_text(COMMAND)
    torch.save({"model": {"w": torch.zeros(3)}}, tmp_path / "three_weights.pt")
    monkeypatch.setattr(common.compare.run, "COMMAND", [sys.executable, str(tmp_path / "command.py")])
    monkeypatch.setenv("FAKE_MODEL", str(tmp_path / "three_weights.pt"))
    return {
        "dataset_dir": str(phantom_dir),
        "out_dir": str(tmp_path / "out"),
        "bundles_dir": str(tmp_path / "bundles"),
        "seeds": 2,
    }


def rows(out: Path) -> list[dict[str, str]]:
    with open(out / "runs.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_whole_comparison_and_its_report(options: dict[str, Any]) -> None:
    """Rates are chosen on seed 0, the chosen runs alone are tested, and the gain is the paired one."""
    text = compare(**options, lr=(0.009, 0.1), methods="quick")
    out = Path(options["out_dir"])
    assert text == f"Report: {out / 'report.html'}"
    trained = [row for row in rows(out) if row["stage"] == "train"]
    assert {(row["arm"], row["seed"], row["lr"], row["chosen"]) for row in trained} == {
        (arm, *rest)
        for arm in ("quick", "scratch Identity")
        for rest in (("0", "0.009", "True"), ("0", "0.1", "False"), ("1", "0.009", "True"))
    }
    assert sorted(str(p.parent.relative_to(out)) for p in out.glob("test/*/*/*/*/metrics.csv")) == [
        f"test/{arm}/labels_1/s{seed}/lr0" for arm in ("quick", "scratch_Identity") for seed in (0, 1)
    ]
    report = (out / "report.md").read_text()
    assert "| quick | Identity | 0.0 M | 0.605 ± 0.007 | +0.100 ± 0.000 | +0.100 to +0.100 | 2 of 2 |" in report
    assert "**+0.100" not in report  # two seeds are too few to say so
    page = (out / "report.html").read_text()
    assert "data:image/png;base64," in page
    assert 'src="pictures' not in page
    assert not list(out.rglob("resume.pt"))
    results = json.loads((out / "results.json").read_text())
    assert results["missing"] == []
    assert results["options"]["lr"] == [0.009, 0.1]

    before = {path: path.stat().st_mtime_ns for path in out.rglob("record.json")}
    compare(**options, lr=(0.009, 0.1), methods="quick")  # all is there
    assert {path: path.stat().st_mtime_ns for path in out.rglob("record.json")} == before


def test_other_settings_are_refused_before_anything_runs(options: dict[str, Any]) -> None:
    compare(**options, lr=0.01)
    with pytest.raises(InputError, match=r"other settings \(lr, 0.01 instead of 0.02\)"):
        compare(**options, lr=0.02)
    compare(**{**options, "seeds": 3}, lr=0.01)  # more of the same is welcome


def test_a_method_that_joins_later_leaves_what_is_there(options: dict[str, Any]) -> None:
    """Also where it comes first in the alphabet, with the same network from scratch or with another one of its kind."""
    compare(**options)
    bundles, out = Path(options["bundles_dir"]), Path(options["out_dir"])
    before = {path: path.stat().st_mtime_ns for path in out.rglob("record.json")}
    for name in ("also", "another"):
        shutil.copytree(bundles / "quick", bundles / name)
    (bundles / "another/configs/train.json").write_text(json.dumps({**TRAIN, **SHARED, "batch_size": 2}))
    plan = Plan(Options(**options))
    arms = {arm.name: (arm.bundle.name, arm.baseline) for arm in plan.arms}
    assert arms == {
        "scratch Identity": ("quick", "scratch Identity"),
        "scratch Identity 2": ("another", "scratch Identity 2"),
        "also": ("also", "scratch Identity"),
        "another": ("another", "scratch Identity 2"),
        "quick": ("quick", "scratch Identity"),
    }
    for run in plan.runs():
        check_settings(plan.out, run)
    compare(**options, methods="also,quick")
    assert before.items() <= {path: path.stat().st_mtime_ns for path in out.rglob("record.json")}.items()


def test_a_bundle_with_layer_decay_keeps_it_and_the_report_says_so(options: dict[str, Any]) -> None:
    file = Path(options["bundles_dir"]) / "quick/configs/train.json"
    content = {name: value for name, value in json.loads(file.read_text()).items() if name != "body_lr_factor"}
    file.write_text(json.dumps({**content, "layer_decay": 0.75}))
    compare(**options, lr=0.01)
    report = (Path(options["out_dir"]) / "report.md").read_text()
    assert "| quick | 100% | 0.01 | by layer | 1.000 | yes |" in report
    assert "| scratch Identity | 100% | 0.01 | 0.01 | 1.000 | yes |" in report


def test_every_labelled_case_is_tested_once_per_seed_over_folds(
    options: dict[str, Any], phantom_dir: Path, tmp_path: Path
) -> None:
    """Each fold chooses its own rate, on its own validation cases; the table has one line for all of them."""
    folder = tmp_path / "without_test_cases"
    for name in ("imagesTr", "labelsTr", "imagesUn"):
        shutil.copytree(phantom_dir / name, folder / name)
    settings = {**options, "dataset_dir": str(folder), "folds": 2, "lr": (0.009, 0.1)}
    compare(**settings)
    out = Path(options["out_dir"])
    results = json.loads((out / "results.json").read_text())
    labelled = sorted(case for fold in results["folds"] for case in fold["test"])
    assert labelled == sorted(path.name.partition(".")[0] for path in (folder / "imagesTr").iterdir())
    assert not {*labelled} & {*results["pretraining_cases"]}
    assert len(list(out.glob("pretrain/*/*"))) == 1  # serves both
    for number, fold in enumerate(results["folds"]):
        for seed in (0, 1):
            with open(out / f"test/quick/labels_1/fold{number}/s{seed}/lr0/metrics.csv", newline="") as file:
                assert {row["case"] for row in csv.DictReader(file)} == set(fold["test"])
        assert (out / f"train/quick/labels_1/fold{number}/chosen.json").is_file()
    trained = [row for row in rows(out) if row["stage"] == "train" and row["chosen"] == "True"]
    assert sorted(row["fold"] for row in trained) == ["0"] * 4 + ["1"] * 4
    report = (out / "report.md").read_text()
    assert "2 folds of 1 labelled cases to train on, 1 to validate, 2 to test" in report
    assert report.count("| quick | Identity |") == 1
    assert "+0.100 to +0.100 | 2 of 2 |" in report
    assert "| quick | 100% | 1 | 0.009 | 0.00225 | 0.999 | yes |" in report
    shutil.rmtree(out / "test/quick/labels_1/fold1/s1")
    plan = Plan(Options(**settings))
    results = Results(plan, Schedule(plan))
    assert results.missing() == ["quick, labels_1, fold 1, seed 1"]
    assert {seed for seed, _, _ in results.scores["quick", 1.0]} == {0}  # half of its cases would be another mean


def test_a_rate_that_diverges_is_not_chosen_and_no_failure(options: dict[str, Any]) -> None:
    compare(**options, lr=(0.9, 0.3))
    out = Path(options["out_dir"])
    assert {row["lr"] for row in rows(out) if row["chosen"] == "True"} == {"0.3"}
    assert "| diverged |" in (out / "report.md").read_text()


def test_a_failing_run_is_told_and_the_others_are_done(options: dict[str, Any]) -> None:
    settings = {**options, "lr": (0.01, 0.2), "scratch_lr": (0.01, 0.2)}
    with pytest.raises(InputError, match=r"(?s)train/quick/labels_1/s0/lr1: exit code 1.*the disk is gone") as caught:
        compare(**settings)
    assert "1 runs failed, 2 results are missing" in str(caught.value)
    out = Path(options["out_dir"])
    assert (out / "test/scratch_Identity/labels_1/s1/lr0/metrics.csv").exists()
    assert "**Incomplete**" in (out / "report.md").read_text()


def test_dry_run_starts_nothing(options: dict[str, Any]) -> None:
    text = compare(**options, dry_run=True)
    assert "0 of 9 trainings are done; about " in text
    assert "quick: 10 steps of pretraining" in text
    assert "against scratch Identity; learning rates 0.0003, 0.001, 0.003, times 0.25 for the body" in text
    assert not Path(options["out_dir"]).exists()


def test_one_process_at_a_time_does_a_run(options: dict[str, Any]) -> None:
    """The lock belongs to a process, here another one; it is gone with that process, however it ends."""
    plan = Plan(Options(**options))
    run = plan.pretrain(plan.by_name["quick"], 0)
    folder = plan.out / run.key
    folder.mkdir(parents=True)
    code = "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print(1, flush=True)"
    holder = subprocess.Popen(
        [sys.executable, "-c", f"{code}; time.sleep(60)", str(folder / "lock")], stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    assert not execute(plan.out, run)
    assert record_of(plan.out, run.key) is None
    holder.kill()
    holder.wait()
    assert execute(plan.out, run)
    assert record_of(plan.out, run.key)["parameters"] == 3  # type: ignore[index]


def test_a_killed_comparison_leaves_the_lock_with_the_training(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the next comparison would start the same training beside the one that still runs."""
    monkeypatch.setenv("FAKE_SECONDS", "1")
    plan = Plan(Options(**options))
    run = plan.pretrain(plan.by_name["quick"], 0)
    process = multiprocessing.get_context("fork").Process(target=execute, args=(plan.out, run))
    process.start()
    while not (plan.out / run.key / "log.txt").exists() or not (plan.out / run.key / "log.txt").stat().st_size:
        assert process.is_alive()
        time.sleep(0.01)
    time.sleep(0.2)  # the log's first line is written just before the command starts
    process.kill()
    process.join()
    assert not execute(plan.out, run)
    while not execute(plan.out, run):  # until the training that was left alone has ended
        time.sleep(0.1)


def test_learning_rates_that_are_added_take_part(options: dict[str, Any]) -> None:
    """As the report advises where the best one is at the end of the row; what is there is not done again."""
    compare(**options, lr=(0.1,))
    out = Path(options["out_dir"])
    before = {path: path.stat().st_mtime_ns for path in out.rglob("record.json")}
    compare(**options, lr=(0.1, 0.009))
    chosen = {(row["arm"], row["seed"], row["lr"]) for row in rows(out) if row["chosen"] == "True"}
    assert chosen == {(arm, seed, "0.009") for arm in ("quick", "scratch Identity") for seed in ("0", "1")}
    assert before.items() <= {path: path.stat().st_mtime_ns for path in out.rglob("record.json")}.items()


def test_what_the_first_seeds_search_decided_stays(options: dict[str, Any]) -> None:
    """A cell whose test cases were touched is not chosen anew when the search grows."""
    compare(**options, lr=(0.009, 0.1))
    plan = Plan(Options(**{**options, "search_seeds": 2}, lr=(0.009, 0.1)))
    assert Schedule(plan).chosen(Cell(plan.by_name["quick"], 1.0)) == 0
    check_settings(plan.out, plan.train(Cell(plan.by_name["quick"], 1.0), 0, 0))


def test_a_failed_command_shows_the_end_of_its_log(options: dict[str, Any]) -> None:
    plan = Plan(Options(**options, lr=(0.2,)))
    run = plan.train(Cell(plan.by_name["quick"], 1.0), 0, 0)
    with pytest.raises(RunFailedError, match=r"train/quick/labels_1/s0/lr0: exit code 1(?s:.*)Error: the disk is gone"):
        execute(plan.out, run)
    assert record_of(plan.out, run.key) is None

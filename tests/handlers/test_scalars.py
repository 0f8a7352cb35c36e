"""What a training writes down: scalars, progress, report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from common.handlers.clip_gradients import ClipGradients
from common.handlers.method_progress import MethodProgress
from common.handlers.progress_bar import ProgressBar
from common.handlers.run_report import RunReport, settings_hash
from common.handlers.scalars import Scalars, step_values
from tests.handlers.helpers import tiny_trainer


def test_scalars_are_averages_over_the_interval(tmp_path: Path) -> None:
    losses: list[float] = []
    handler = Scalars(log_dir=str(tmp_path), interval=2)
    trainer = tiny_trainer([handler], epochs=1, steps=4)
    trainer.add_event_handler("ITERATION_COMPLETED", lambda e: losses.append(float(e.state.output["loss"])))
    trainer.run()
    events = EventAccumulator(str(tmp_path)).Reload().Scalars("train/loss")
    assert [e.step for e in events] == [2, 4]
    assert [e.value for e in events] == pytest.approx([sum(losses[:2]) / 2, sum(losses[2:]) / 2], rel=1e-5)
    assert trainer.state.averages["loss"] == pytest.approx(sum(losses[2:]) / 2, rel=1e-5)


def test_share_of_the_time_that_a_step_waits_for_its_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that stands still but for 3 s until a batch is there and 1 s in the step."""
    now = [0.0]
    monkeypatch.setattr("common.handlers.scalars.time.perf_counter", lambda: now[0])

    def passes(seconds: float) -> None:
        now[0] += seconds

    trainer = tiny_trainer([], epochs=1, steps=4)
    trainer.add_event_handler("GET_BATCH_STARTED", passes, 100)  # between steps: validation, say
    Scalars(log_dir=str(tmp_path), interval=2).attach(trainer)
    trainer.add_event_handler("GET_BATCH_STARTED", passes, 3)
    trainer.add_event_handler("ITERATION_STARTED", passes, 1)
    trainer.run()
    waits = EventAccumulator(str(tmp_path)).Reload().Scalars("train/data_wait")
    assert [w.value for w in waits] == [0.75, 0.75]


def test_every_part_and_statistic_of_a_method_is_logged() -> None:
    one = torch.ones(())
    values = step_values({"loss": one, "pred": {"losses": {"ssim": one * 2}, "stats": {"mask_share": one * 3}}})
    assert {name: float(value) for name, value in values.items()} == {"loss": 1, "loss_ssim": 2, "mask_share": 3}


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    network = nn.Linear(3, 1)
    with torch.no_grad():
        network.weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="Lower the learning rate"):
        tiny_trainer([Scalars(log_dir=str(tmp_path), interval=2)], network=network).run()


def test_progress_goes_from_0_to_1_over_the_whole_run() -> None:
    class Probe:
        def __init__(self) -> None:
            self.progress: list[float] = []

        def set_progress(self, progress: float) -> None:
            self.progress.append(progress)

    probe = Probe()
    tiny_trainer([MethodProgress(probe)], epochs=2, steps=3).run()
    assert probe.progress == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])


def test_progress_bar_counts_all_steps(capsys: pytest.CaptureFixture) -> None:
    tiny_trainer([ProgressBar(description="fine-tuning")], epochs=2, steps=3).run()
    shown = capsys.readouterr().err
    assert "fine-tuning: 100%" in shown
    assert "6/6" in shown


def test_gradients_are_clipped_before_the_step() -> None:
    network = nn.Linear(3, 1)
    trainer = tiny_trainer([], epochs=1, steps=1, network=network)
    ClipGradients(optimizer=trainer.optimizer, max_norm=1e-3).attach(trainer)
    trainer.run()
    total = torch.linalg.vector_norm(torch.cat([p.grad.flatten() for p in network.parameters()]))
    assert float(total) == pytest.approx(1e-3, rel=1e-3)


def test_run_report_says_what_ran(tmp_path: Path) -> None:
    output = tmp_path / "model.pt"
    output.write_bytes(b"123")
    path = tmp_path / "run.json"
    report = RunReport(
        path=str(path),
        settings={"seed": 3},
        device="cpu",
        cases=[{"image": "a.nii.gz", "case": "a"}],
        outputs=[str(output), str(tmp_path / "absent")],
    )
    tiny_trainer([Scalars(log_dir=str(tmp_path)), report], epochs=2, steps=3).run()
    content = json.loads(path.read_text())
    assert content["status"] == "complete"
    assert content["settings"] == {"seed": 3}
    assert content["config_hash"] == settings_hash({"seed": 3}) != settings_hash({"seed": 4})
    assert content["cases"] == ["a"]
    assert content["outputs"] == {str(output): 3}
    assert (content["epoch"], content["steps"]) == (2, 6)
    assert content["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    assert content["last"]["loss"] >= 0


def test_run_report_of_a_broken_run_says_so(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    trainer = tiny_trainer([RunReport(path=str(path), settings={}, device="cpu")])

    def fail() -> None:
        raise KeyError("x")

    trainer.add_event_handler("ITERATION_COMPLETED", fail)
    with pytest.raises(KeyError):
        trainer.run()
    assert json.loads(path.read_text())["status"] == "ended by KeyError"

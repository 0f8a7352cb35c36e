"""What happens to a segmented volume while the network is at the next one."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from monai.engines import SupervisedEvaluator
from monai.transforms import Compose, SaveImaged
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from common.errors import InputError, input_error_message
from common.handlers import finish_volumes
from common.handlers.finish_volumes import FinishVolumes


class Save(SaveImaged):
    """Calls a function in place of writing."""

    def __init__(self, call: Callable[[dict], dict]) -> None:
        self.call = call

    def __call__(self, data: dict) -> dict:
        return self.call(data)


def segment(names: str, network: Callable[[str], Any], *steps: Callable[[dict], dict], **options: Any) -> FinishVolumes:
    """Run an evaluator on volumes of these names; its network is told the name."""
    loader = [
        {"image": torch.full((1, 1, 2, 2, 2), i), "case": [name], "load_seconds": torch.tensor([1.25])}
        for i, name in enumerate(names)
    ]

    def forward(image: torch.Tensor, _: Any) -> torch.Tensor:
        network(names[int(image.max())])
        return image

    handler = FinishVolumes(postprocessing=Compose(steps), structures={"heart": 3}, **options)
    SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=loader,
        network=torch.nn.Identity(),
        inferer=forward,
        val_handlers=[handler],
    ).run()
    return handler


def test_a_line_per_volume_says_what_each_stage_took(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [0.0]
    monkeypatch.setattr(finish_volumes.time, "perf_counter", lambda: now[0])

    def passes(seconds: float) -> Callable[[Any], Any]:
        def step(data: Any) -> Any:
            now[0] += seconds
            return data

        return step

    with caplog.at_level(logging.INFO, "common.handlers.finish_volumes"):
        steps = (Save(passes(0.5)), passes(3), passes(0.25), Save(passes(4)))
        segment("ab", passes(2), *steps, background=False)
    assert [r.message for r in caplog.records if r.name == "common.handlers.finish_volumes"] == [
        f"{case}: load 1.25 s, network 2.00 s, restore 3.25 s, save 4.50 s" for case in "ab"
    ]


def test_one_volume_is_finished_while_the_network_is_at_the_next() -> None:
    events: list[str] = []
    reached = {name: threading.Event() for name in "abc"}

    def network(name: str) -> None:
        events.append(f"network {name}")
        reached[name].set()

    def finish(data: dict) -> dict:
        following = {"a": "b", "b": "c"}.get(data["case"])
        assert following is None or reached[following].wait(10)  # in turn, this would never come
        events.append(f"finished {data['case']}")
        return data

    segment("abc", network, finish)
    assert events.index("finished a") < events.index("network c")
    assert events[-1] == "finished c"


@pytest.mark.parametrize(("dtype", "device"), [(torch.uint8, "cpu"), (torch.float32, "cuda")])
def test_channel_indices_leave_the_gpu_before_they_are_finished(dtype: torch.dtype, device: str) -> None:
    finished: list[torch.Tensor] = []

    def finish(data: dict) -> dict:
        finished.append(data["pred"])
        return data

    # a GPU's tensor without a GPU
    pred = FakeTensor(FakeTensorMode(), torch.empty(1, 2, 2, 2, dtype=dtype, device="meta"), torch.device("cuda:0"))
    batch = {"case": "a", "load_seconds": 0.0}
    engine: Any = SimpleNamespace(state=SimpleNamespace(batch=[batch], output=[{"pred": pred}]))
    handler = FinishVolumes(postprocessing=Compose([finish]), structures={"heart": 3})
    handler(engine)
    handler.wait()
    assert [made.device.type for made in finished] == [device]


@pytest.mark.parametrize("names", ["abcd", "ab"])  # b is the last one, too: nothing waits for it but the run's end
@pytest.mark.parametrize("background", [True, False])
def test_what_cannot_be_finished_ends_the_run(background: bool, names: str) -> None:
    finished: list[str] = []

    def finish(data: dict) -> dict:
        if data["case"] == "b":
            raise InputError("b_seg.nii.gz: cannot be written. Free space.")
        finished.append(data["case"])
        return data

    with pytest.raises(RuntimeError) as caught:  # MONAI's, around ours
        segment(names, str, finish, background=background)
    assert input_error_message(caught.value) == "b_seg.nii.gz: cannot be written. Free space."
    assert finished == ["a"]


def test_the_volume_before_one_that_fails_is_finished() -> None:
    failed, finished = threading.Event(), []

    def network(name: str) -> None:
        if name == "b":
            failed.set()
            raise RuntimeError("a defect")

    def finish(data: dict) -> dict:
        assert failed.wait(10)
        finished.append(data["case"])
        return data

    with pytest.raises(RuntimeError, match="a defect"):
        segment("ab", network, finish)
    assert finished == ["a"]

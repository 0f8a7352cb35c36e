"""No step of a pretraining waits for its device: nothing is read from it, and no size depends on a tensor's values."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser
from monai.engines import SupervisedTrainer
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from common.batches import image_batch
from common.handlers.clip_gradients import ClipGradients
from common.handlers.method_progress import MethodProgress
from common.handlers.progress_bar import ProgressBar
from common.handlers.scalars import Scalars
from common.handlers.update_teacher import UpdateTeacher
from common.methods.baselines import BASELINES
from tests.bundles.discovery import NAMES
from tests.bundles.two_processes import images, parser

aten = torch.ops.aten
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# They give the host a number, or a result whose size the host has to be told.
WAITING = {
    aten._local_scalar_dense,  # item, float, int, bool, index, if
    aten.equal,
    aten.is_nonzero,
    aten.masked_select,
    aten.nonzero,
    aten.unique_consecutive,
    aten.unique_dim,
    aten._unique,
    aten._unique2,
    aten.lift_fresh,  # torch.tensor of Python numbers: a copy from the host
}
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}
# On the CPU these pass no dispatcher.
READERS = ("cpu", "numpy", "tolist", "__array__")
STEPS = 3

# What the default settings of a bundle leave out.
FURTHER: dict[str, list[dict[str, Any]]] = {
    "isd_mae": [{"method#binning": "quantile", "method#replacement": True, "loss#queue_size": 4}],
    "tcs_mae": [{"method#augmentation": "independent", "method#exclude_background": True}],
    "anatomask": [{"exclude_background": True, "score": "code"}, {"guidance": "student"}],
    "amlp": [{"method#order_noise": 0.1}, {"order": "random", "loss#literal_consistency": True}],
    "selfmedhpm": [{"teacher_input": "masked"}, {"mining": False}],
    "baselines": [{"baseline": baseline} for baseline in BASELINES if baseline != "mae"],
}
CASES = [(name, settings) for name in NAMES for settings in [{}, *FURTHER.get(name, [])]]


class Guard(TorchDispatchMode):
    """Raises where a GPU would make the host wait."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        packet = func.overloadpacket
        by_mask = packet in INDEXING and any(
            isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        of_a_tensor = func is aten.repeat_interleave.Tensor and kwargs.get("output_size") is None
        if packet in WAITING or by_mask or of_a_tensor:
            raise AssertionError(f"{func} waits for the device")
        return func(*args, **kwargs)


@contextmanager
def guarded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Refuse round trips: by torch itself on a GPU, by the operations that would make them on a CPU."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a tensor is read by the host")

    with monkeypatch.context() as patched, Guard():
        for reader in READERS:
            patched.setattr(Tensor, reader, refuse)
        if DEVICE == "cuda":
            torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            if DEVICE == "cuda":
                torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.sum().item(),
        lambda x: float(x.sum()),
        lambda x: bool(x.any()),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: x.numpy(),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x.masked_select(x > 0),
        lambda x: x.masked_fill(x > 0, 1).index_put_((x > 0,), x.new_zeros(())),
        lambda x: torch.equal(x, x),
        lambda x: x.unique(),
        lambda x: x + torch.tensor([1.0, 2.0], device=x.device),
        lambda x: x.repeat_interleave((x > 0).long()),
    ],
)
def test_the_guard_notices(read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.tensor([-1.0, 2.0], device=DEVICE)
    with guarded(monkeypatch), pytest.raises((AssertionError, RuntimeError)):
        read(x)


def test_the_guard_sees_the_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.ones(2, device=DEVICE, requires_grad=True)
    x.register_hook(lambda gradient: gradient * gradient.sum().item())
    loss = (2 * x).sum()
    with guarded(monkeypatch), pytest.raises(AssertionError, match="_local_scalar_dense"):
        loss.backward()


@pytest.mark.parametrize(("name", "settings"), CASES, ids=[f"{n}-{'-'.join(map(str, s.values()))}" for n, s in CASES])
def test_a_step_makes_no_round_trip(
    name: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """The second of three steps, with everything that a bundle's trainer does in one."""
    config = parser(name, "pretrain")
    config.update({"device": DEVICE, **settings})
    batches = [images(name, step, 0) for step in range(STEPS)]
    trainer = pretraining(config, [x.pin_memory() if DEVICE == "cuda" else x for x in batches])
    with ExitStack() as guards:

        def begin(engine: SupervisedTrainer) -> None:
            if engine.state.iteration == 2:
                guards.enter_context(guarded(monkeypatch))

        trainer.add_event_handler("ITERATION_STARTED", begin)
        for handler in handlers(config, trainer, str(tmp_path)):
            handler.attach(trainer)
        trainer.add_event_handler("ITERATION_COMPLETED", lambda _: guards.close())
        trainer.run()
    assert trainer.state.iteration == STEPS


def pretraining(config: ConfigParser, batches: list[Tensor]) -> SupervisedTrainer:
    """A trainer of the bundle's method. Its optimiser is SGD: Adam counts steps in tensors of the host."""
    network = config.get_parsed_content("network")
    groups = config.get_parsed_content("optimizer").param_groups
    return SupervisedTrainer(
        device=torch.device(DEVICE),
        max_epochs=1,
        train_data_loader=[{"image": image} for image in batches],
        network=network,
        optimizer=torch.optim.SGD([{"params": group["params"], "lr": 1e-3} for group in groups]),
        loss_function=config.get_parsed_content("loss").to(DEVICE),
        inferer=config.get_parsed_content("train#inferer"),
        prepare_batch=image_batch,
        decollate=False,
    )


def handlers(config: ConfigParser, trainer: SupervisedTrainer, folder: str) -> list[Any]:
    """Those that act in every step."""
    method = config.get_parsed_content("method")
    chosen: list[Any] = [
        ClipGradients(optimizer=trainer.optimizer, max_norm=5.0),
        Scalars(log_dir=folder, optimizer=trainer.optimizer),
        ProgressBar(description="pretraining", interval=0.0),
    ]
    if hasattr(method, "set_progress"):
        chosen.append(MethodProgress(method))
    if hasattr(method, "update_teacher"):
        chosen.append(UpdateTeacher(method=method, optimizer=trainer.optimizer))
    return chosen

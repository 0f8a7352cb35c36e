"""Method tax: a pretraining step of every method against the bare passes of its network.

A step is what a bundle's trainer does with a batch that is there: masks, passes, losses, backward, clipping, AdamW,
the teacher's update, and the sums that are logged. The bare passes are those of the same network, as many, on the same
crops: forward and backward of the student and, where there is one, the teacher's forward without gradients, with
nothing hidden and any gradient in place of a loss; the Vision Transformer alone leaves its hidden patches out there
too. The tax is 1 / ratio.

Networks and settings are those of ``pretrain.json`` with ``smoke.json`` on top, at half of the training.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from monai.bundle import ConfigParser
from monai.inferers import Inferer
from torch import Tensor

from benchmarks.rows import ROWS, Case
from common.handlers.clip_gradients import ClipGradients
from common.handlers.scalars import Scalars
from common.methods.anatomask import AnatoMask
from common.methods.selfmedhpm import SelfMedHPM

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
EDGES = (64, 96)
PRECISIONS = ("fp32", "bf16")
BATCHES = {"pretrain": "pretrain_batch_size", "train": "batch_size"}


def _one_pass(method: Any, x: Tensor) -> list[Tensor]:
    return [method.network(x)]


def _two_passes(method: Any, x: Tensor) -> list[Tensor]:
    return [method.network(x), method.network(x)]


def _teacher_and_dense_pass(method: AnatoMask, x: Tensor) -> list[Tensor]:
    assert method.teacher is not None
    with torch.no_grad():
        _dense(method.teacher.module, x)
    return [_dense(method.network, x)]


def _dense(spark: Any, x: Tensor) -> Tensor:
    """SparK with nothing hidden: ordinary norms, and no token anywhere."""
    y: Tensor | None = None
    for densify, block, seen in zip(spark.densify, spark.decoder, spark.encode(x)[:0:-1], strict=True):
        dense = densify.project(densify.norm(seen))
        y = block(dense if y is None else y + dense)
    made: Tensor = spark.head(y)
    return made


def _teacher_and_sparse_pass(method: SelfMedHPM, x: Tensor) -> list[Tensor]:
    assert method.teacher is not None
    method.teacher(x)
    n = method.network.decoder_input.positions.shape[1]
    places = torch.arange(n, device=x.device).expand(len(x), n)
    made: list[Tensor] = list(method.network(x, places[:, method.n_hidden :], places[:, : method.n_hidden]))
    return made


# Where it is not one pass of the network.
PASSES: dict[str, Callable[[Any, Tensor], list[Tensor]]] = {
    "isd_mae": _two_passes,
    "tcs_mae": _two_passes,
    "anatomask": _teacher_and_dense_pass,
    "selfmedhpm": _teacher_and_sparse_pass,
}


def method_tax(device: torch.device, *, bundle: str, smoke: bool = True, **settings: Any) -> Case:
    """A step of that bundle at the size of ``smoke.json`` or its own; ``settings`` are those of ``pretrain.json``."""
    method, criterion, optimizer, inferer, image = stage_of(bundle, "pretrain", device, smoke=smoke, **settings)
    clip = ClipGradients(optimizer=optimizer, max_norm=5.0)
    scalars = Scalars(log_dir="unused", interval=1_000_000)
    engine = _trainer()

    def step() -> None:
        optimizer.zero_grad()
        outputs = inferer(image, method)
        loss = criterion(outputs)
        loss.backward()
        clip(engine)
        optimizer.step()
        if hasattr(method, "update_teacher"):
            method.update_teacher()
        engine.state.output = {"loss": loss, "pred": outputs}
        scalars.step(engine)

    def passes() -> None:
        optimizer.zero_grad()
        made = inferer(image, functools.partial(PASSES.get(bundle, _one_pass), method))
        torch.autograd.backward(made, [torch.ones_like(part) for part in made])

    return Case(step, passes, "bare passes of its network")


def training_step(device: torch.device, *, bundle: str, smoke: bool = True, **settings: Any) -> Callable[[], object]:
    """A step of fine-tuning, likewise."""
    network, criterion, optimizer, inferer, image = stage_of(bundle, "train", device, smoke=smoke, **settings)
    n_classes = len(bundle_config(bundle, "train", {})["structures"]) + 1
    label = torch.randint(n_classes, (len(image), 1, *image.shape[2:]), dtype=torch.uint8, device=device)
    target = {"label": label, "annotated": torch.ones(len(image), n_classes, dtype=torch.bool, device=device)}
    clip = ClipGradients(optimizer=optimizer, max_norm=5.0)
    engine = _trainer()

    def step() -> None:
        optimizer.zero_grad()
        criterion(inferer(image, network), target).backward()
        clip(engine)
        optimizer.step()

    return step


class Stage(NamedTuple):
    """What makes a step of a bundle's stage, and crops (B, C, *S) to make it with."""

    network: Any
    criterion: Any
    optimizer: torch.optim.Optimizer
    inferer: Inferer
    image: Tensor


def stage_of(bundle: str, stage: str, device: torch.device, *, smoke: bool = True, **settings: Any) -> Stage:
    """That of ``pretrain.json`` or ``train.json``, half of the training done."""
    config = bundle_config(bundle, stage, {**settings, "device": str(device)}, smoke=smoke)
    network, criterion, optimizer, inferer = (
        config.get_parsed_content(name) for name in ("network", "loss", "optimizer", "train#inferer")
    )
    if hasattr(network, "set_progress"):
        network.set_progress(0.5)
    image = _image(bundle, config[BATCHES[stage]], config["roi_size"], device)
    return Stage(network.train(), criterion.to(device), optimizer, inferer, image)


def _trainer() -> Any:
    """As much of one as the handlers of gradients and scalars read."""
    return SimpleNamespace(
        scaler=None, accumulation_steps=1, state=SimpleNamespace(iteration=1, epoch_length=1_000_000)
    )


def _image(bundle: str, batch_size: int, shape: Sequence[int], device: torch.device) -> Tensor:
    """Smooth noise with the bundle's channels."""
    metadata = json.loads((BUNDLES / bundle / "configs" / "metadata.json").read_text())
    n_channels = metadata["network_data_format"]["inputs"]["image"]["num_channels"]
    coarse = torch.rand(batch_size, n_channels, *[n // 8 for n in shape], device=device)
    return torch.nn.functional.interpolate(coarse, size=tuple(shape), mode="trilinear")


def bundle_config(bundle: str, stage: str, settings: dict[str, Any], *, smoke: bool = True) -> ConfigParser:
    """A bundle's ``<stage>.json``, with ``smoke.json`` on top, and of the settings those that it has."""
    folder = BUNDLES / bundle / "configs"
    config: dict[str, Any] = json.loads((folder / f"{stage}.json").read_text())
    overlay = json.loads((folder / "smoke.json").read_text()) if smoke else {}
    changes = {**overlay, "bundle_root": str(folder.parent), **settings}
    return ConfigParser({**config, **{name: value for name, value in changes.items() if name in config}})


def _register(bundle: str, edge: int, precision: str) -> None:
    def make(device: torch.device) -> Case:
        return method_tax(device, bundle=bundle, roi_size=[edge] * 3, precision=precision)

    make.__doc__ = f"A pretraining step of {bundle}, crops of {edge} x {edge} x {edge}, {precision}"
    ROWS[f"tax_{bundle}_{edge}_{precision}"] = make


for _file, _edge, _precision in itertools.product(sorted(BUNDLES.glob("*/configs/pretrain.json")), EDGES, PRECISIONS):
    _register(_file.parts[-3], _edge, _precision)

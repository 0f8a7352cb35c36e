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
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import Tensor

from benchmarks.rows import ROWS, Case
from common.handlers.clip_gradients import ClipGradients
from common.handlers.scalars import Scalars
from common.methods.anatomask import AnatoMask
from common.methods.selfmedhpm import SelfMedHPM

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
EDGES = (64, 96)
PRECISIONS = ("fp32", "bf16")


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


def method_tax(device: torch.device, *, bundle: str, edge: int, precision: str, **settings: Any) -> Case:
    """A step of that bundle on crops of ``edge`` voxels, with further settings of its ``pretrain.json``."""
    settings = {**settings, "roi_size": [edge] * 3, "precision": precision, "device": str(device)}
    config = _config(bundle, settings)
    method = config.get_parsed_content("network").train()
    criterion = config.get_parsed_content("loss").to(device)
    optimizer = config.get_parsed_content("optimizer")
    inferer = config.get_parsed_content("train#inferer")
    metadata = json.loads((BUNDLES / bundle / "configs" / "metadata.json").read_text())
    n_channels = metadata["network_data_format"]["inputs"]["image"]["num_channels"]
    coarse = torch.rand(config["pretrain_batch_size"], n_channels, *[edge // 8] * 3, device=device)
    image = torch.nn.functional.interpolate(coarse, size=[edge] * 3, mode="trilinear")
    if hasattr(method, "set_progress"):
        method.set_progress(0.5)
    clip = ClipGradients(optimizer=optimizer, max_norm=5.0)
    scalars = Scalars(log_dir="unused", interval=1_000_000)
    # as much of a trainer as the two handlers read
    state = SimpleNamespace(iteration=1, epoch_length=1_000_000)
    engine: Any = SimpleNamespace(scaler=None, accumulation_steps=1, state=state)

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


def _config(bundle: str, settings: dict[str, Any]) -> ConfigParser:
    folder = BUNDLES / bundle / "configs"
    config: dict[str, Any] = json.loads((folder / "pretrain.json").read_text())
    changes = {**json.loads((folder / "smoke.json").read_text()), **settings}
    return ConfigParser({**config, **{name: value for name, value in changes.items() if name in config}})


def _register(bundle: str, edge: int, precision: str) -> None:
    def make(device: torch.device) -> Case:
        return method_tax(device, bundle=bundle, edge=edge, precision=precision)

    make.__doc__ = f"A pretraining step of {bundle}, crops of {edge} x {edge} x {edge}, {precision}"
    ROWS[f"tax_{bundle}_{edge}_{precision}"] = make


for _file, _edge, _precision in itertools.product(sorted(BUNDLES.glob("*/configs/pretrain.json")), EDGES, PRECISIONS):
    _register(_file.parts[-3], _edge, _precision)

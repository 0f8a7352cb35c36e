"""Count the memory that a training step of a bundle takes on one card, without a card and without computing the step.

    python scripts/memory.py anatomask --stage pretrain
    python scripts/memory.py anatomask --size H --checkpointing True --batch_size 1

Settings of the bundle follow as ``--name value``. Network, loss and optimizer make a step on torch's fake tensors,
which have shapes and types but no values; what lives at the worst moment is added up. Not counted is what a GPU needs
beside tensors: the CUDA context, workspaces of convolutions, gaps between tensors. Several processes take as much
each, since gradients are views of the buffers that they exchange.
"""

from __future__ import annotations

import argparse
import ast
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from monai.bundle import ConfigParser
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from common.activation_checkpointing import checkpoint_blocks
from common.errors import InputError, install_excepthook
from common.precision import autocast

BUNDLES = Path(__file__).resolve().parent.parent / "bundles"
NETWORKS = {"pretrain": "method", "train": "network_def"}
BATCHES = {"pretrain": "pretrain_batch_size", "train": "batch_size"}
GIB = 2**30


@dataclass(frozen=True)
class Memory:
    """Bytes on one card: at the worst moment of a step, and of them those that stay from step to step."""

    peak: int
    lasting: int

    def __str__(self) -> str:
        return (
            f"{self.peak / GIB:.1f} GiB at the worst moment: {self.lasting / GIB:.1f} weights, gradients, moments of "
            f"the optimizer and a teacher, {(self.peak - self.lasting) / GIB:.1f} activations"
        )


def step_memory(name: str, stage: str, settings: Mapping[str, Any], *, precision: str = "bf16") -> Memory:
    """Memory of a training step.

    Args:
        name: a folder of ``bundles``.
        stage: ``"pretrain"`` or ``"train"``.
        settings: top-level settings in place of the bundle's.
        precision: of the network, see :mod:`common.precision`; weights are float32.

    Raises:
        InputError: for an unknown bundle, stage or setting, or a method that decides by values, which fake tensors do
            not have.
    """
    parser = _parser(name, stage, settings)
    shape = [parser[BATCHES[stage]], _channels(name), *parser["roi_size"]]
    try:
        with (
            FakeTensorMode(),
            # the values of new weights do not matter, and torch's truncated normal looks at them
            patch.object(nn.init, "trunc_normal_", lambda weight, **_: weight),
            # the copy of a buffer, as a teacher has, belongs to the same mode, not to a copy of it
            patch.object(FakeTensorMode, "__deepcopy__", lambda mode, _: mode, create=True),
        ):
            return _count(parser, stage, shape, precision)
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        raise InputError(
            f"{name}: its {stage} stage decides by values ({error}), which are not computed here. Measure it on a GPU."
        ) from error


def _parser(name: str, stage: str, settings: Mapping[str, Any]) -> ConfigParser:
    names = sorted(p.parent.parent.name for p in BUNDLES.glob("*/configs/metadata.json"))
    for what, given, allowed in (("bundle", name, names), ("stage", stage, list(NETWORKS))):
        if given not in allowed:
            raise InputError(f"{what}: got {given}. Allowed are {', '.join(allowed)}.")
    parser = ConfigParser()
    parser.read_config(str(BUNDLES / name / "configs" / f"{stage}.json"))
    for key, value in settings.items():
        if key not in parser:
            raise InputError(f"--{key}: no such setting in {stage}.json of {name}. Look there for those that exist.")
        parser[key] = value
    parser["network"] = f"@{NETWORKS[stage]}"  # neither moved nor wrapped
    return parser


def _channels(name: str) -> int:
    metadata = json.loads((BUNDLES / name / "configs" / "metadata.json").read_text(encoding="utf-8"))
    channels: int = metadata["network_data_format"]["inputs"]["image"]["num_channels"]
    return channels


def _count(parser: ConfigParser, stage: str, shape: Sequence[int], precision: str) -> Memory:
    network, loss, optimizer = (parser.get_parsed_content(key) for key in (NETWORKS[stage], "loss", "optimizer"))
    network.train()
    if parser.get("compile"):
        raise InputError("compile: what compiled code keeps cannot be counted. Leave it out.")
    if parser.get("checkpointing"):
        checkpoint_blocks(getattr(network, "network", network))  # as common.inferers.AutocastInferer does
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # makes its moments: with gradients, they are there from the second step of a training on
    for parameter in network.parameters():  # the tracker refuses a teacher's, whose passes keep no gradients anyway
        parameter.requires_grad_(True)
    image = torch.zeros(shape)
    target = _target(shape, len(parser["structures"]) + 1) if stage == "train" else None
    tracker = MemTracker()
    tracker.track_external(network, optimizer, image)
    with tracker:
        optimizer.zero_grad(set_to_none=False)  # as MONAI's trainer does
        with autocast(precision, "cpu"):
            made = network(image)
        loss(made, target).backward()
        del made
        optimizer.step()  # after which a teacher follows in place
    moments = [m for state in optimizer.state.values() for m in state.values() if isinstance(m, Tensor)]
    lasting = [*network.parameters(), *network.buffers(), *(p.grad for p in trained), *moments]
    return Memory(
        peak=tracker.get_tracker_snapshot("peak")[image.device]["Total"],
        lasting=sum(t.numel() * t.element_size() for t in lasting),
    )


def _target(shape: Sequence[int], classes: int) -> dict[str, Tensor]:
    label = torch.zeros([shape[0], 1, *shape[2:]], dtype=torch.uint8)
    return {"label": label, "annotated": torch.ones(shape[0], classes, dtype=torch.bool)}


def main() -> None:
    """Command line."""
    install_excepthook()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", help="name of a folder in bundles/")
    parser.add_argument("--stage", choices=list(NETWORKS), default="train", help="default: train")
    parser.add_argument("--precision", default="bf16", help="fp32 or bf16, which stands for fp16 too; default: bf16")
    arguments, words = parser.parse_known_args()
    if len(words) % 2 or not all(word.startswith("--") for word in words[::2]):
        raise InputError(f"{' '.join(words)}: give settings as --name value.")
    settings = {flag[2:]: _value(text) for flag, text in zip(words[::2], words[1::2], strict=True)}
    memory = step_memory(arguments.bundle, arguments.stage, settings, precision=arguments.precision)
    sys.stdout.write(f"{arguments.bundle}, {arguments.stage}: {memory}\n")


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


if __name__ == "__main__":
    main()

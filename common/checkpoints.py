"""Checkpoints that are complete or absent, hold only tensors and plain values, and say what they are.

A model file is ``{"model": state_dict, "card": {...}}``: the weights of the plain network under the names of the
bundles' ``network_def``, and a card of plain values (method, spacing, structures, sizes of the network, seed, cases)
by which another program tells whether it may use them.
"""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common import __version__
from common.errors import InputError
from common.exports import ExportedNetwork
from common.files import written_beside

logger = logging.getLogger(__name__)

_SHOWN = 3


def save_atomic(content: Any, path: str | os.PathLike) -> None:
    """Save with ``torch.save`` beside ``path``, then rename: at any moment ``path`` is complete or as it was.

    Raises:
        InputError: when the disk is full or the folder cannot be written.
    """
    with written_beside(path) as part, open(part, "wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            # torch's archive writer reports a full disk as a wrong position in the file
            if isinstance(error.__context__, OSError):
                raise error.__context__ from error
            raise


def load_checkpoint(path: str | os.PathLike, map_location: Any = "cpu") -> dict[str, Any]:
    """Load tensors and plain values; anything that could run code is refused.

    Raises:
        InputError: when the file is missing, damaged, not a checkpoint, or holds other Python objects.
    """
    try:
        content = torch.load(path, map_location=map_location, weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f"{path}: not there. Check the path, or run what writes it.") from error
    except pickle.UnpicklingError as error:
        if "unsupported global" in str(error).lower():
            raise InputError(
                f"{path}: refused, it holds Python objects that could run code. Use a checkpoint of tensors and plain "
                "values, and none from a source you do not trust."
            ) from error
        raise InputError(_damaged(path)) from error
    except (PermissionError, IsADirectoryError) as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror or error}). Check the file and its rights."
        ) from error
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # torch raises anything from OSError to KeyError on damaged bytes
        raise InputError(_damaged(path)) from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}, not a checkpoint. Check the path.")
    return content


def _damaged(path: str | os.PathLike) -> str:
    return (
        f"{path}: damaged, or no checkpoint of tensors and plain values. Copy it again, or delete it and run what "
        "writes it."
    )


def save_pretrained(path: str | os.PathLike, network: nn.Module, card: Mapping[str, Any]) -> None:
    """Save the weights of ``network`` with ``card``, to which the versions of this package and of torch are added."""
    weights = {name: value.detach().cpu() for name, value in network.state_dict().items()}
    versions = {"package_version": __version__, "torch_version": str(torch.__version__)}
    save_atomic({"model": weights, "card": {**versions, **_plain(card)}}, path)


def load_weights(
    network: nn.Module, path: str | os.PathLike, *, key: str = "model", expected_card: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Load all weights of a trained network, for inference or evaluation.

    Args:
        network: the network that the weights must fit without exception. An exported one has its weights already;
            differences to the config files that it was exported with are logged.
        path: e.g. ``models/model.pt``.
        key: where the weights are in the file; a file that is a bare ``state_dict`` is read too.
        expected_card: values that the file's card must have, as far as it has a card.

    Returns:
        The card; empty when there is none.

    Raises:
        InputError: when there is no such file, or it belongs to another network or another configuration.
    """
    if isinstance(network, ExportedNetwork):
        stored = {name: network.settings[name] for name in expected_card or {} if name in network.settings}
        if differences := card_difference({name: (expected_card or {})[name] for name in stored}, stored):
            logger.warning("%s: exported with other config files (%s).", network.path, "; ".join(differences))
        return {}
    if not Path(path).exists():
        raise InputError(f"{path}: no trained network there. Train one first: {_training_command(Path(path))}")
    content = load_checkpoint(path)
    check_card(content, path, expected_card)
    weights = network_weights(content, path, key=key)
    wanted = network.state_dict()
    problems = [f"{name} is missing" for name in wanted if name not in weights]
    problems += [f"{name} is not part of the network" for name in weights if name not in wanted]
    problems += [
        f"{name} is {tuple(weights[name].shape)} instead of {tuple(value.shape)}"
        for name, value in wanted.items()
        if name in weights and weights[name].shape != value.shape
    ]
    if problems:
        raise InputError(
            f"{path}: belongs to another network ({shortened(problems)}). Use the settings it was trained with, or "
            "train again."
        )
    network.load_state_dict(weights)
    logger.info("%s: all %d tensors loaded.", path, len(weights))
    return dict(content.get("card", {}))


def network_weights(content: Mapping[str, Any], path: str | os.PathLike, *, key: str = "model") -> dict[str, Tensor]:
    """The ``state_dict`` in a loaded file, without the ``module.`` that distributed training puts before names."""
    weights = content.get(key, content)
    if not isinstance(weights, Mapping) or not weights or not all(isinstance(v, Tensor) for v in weights.values()):
        found = ", ".join(map(str, list(content)[:_SHOWN])) or "nothing"
        raise InputError(f"{path}: no weights under {key!r} (found: {found}). Give a file that this package wrote.")
    return {name.removeprefix("module."): value for name, value in weights.items()}


def card_difference(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Every entry that differs, as ``name: <value> here, <value> there``; nested entries by dotted names."""
    differences = []
    for name in [*expected, *(name for name in found if name not in expected)]:
        if name not in found:
            differences.append(f"{name}: {expected[name]!r} here, absent there")
        elif name not in expected:
            differences.append(f"{name}: absent here, {found[name]!r} there")
        elif isinstance(expected[name], Mapping) and isinstance(found[name], Mapping):
            nested = card_difference(expected[name], found[name])
            here, there = list(expected[name]), list(found[name])
            if not nested and name == "structures" and here != there:
                # network channels follow their order
                nested = [f"order {here!r} here, {there!r} there"]
            differences += [f"{name}.{difference}" for difference in nested]
        elif _plain(expected[name]) != _plain(found[name]):
            differences.append(f"{name}: {_plain(expected[name])!r} here, {_plain(found[name])!r} there")
    return differences


def check_card(content: Mapping[str, Any], path: str | os.PathLike, expected: Mapping[str, Any] | None) -> None:
    """Refuse a loaded file whose card lacks or contradicts an entry of ``expected``.

    Raises:
        InputError: naming every difference.
    """
    if not expected:
        return
    card = content.get("card")
    if not isinstance(card, Mapping):
        logger.warning("%s: has no card, so only the shapes of its weights are checked.", path)
        return
    differences = card_difference(expected, {name: card[name] for name in expected if name in card})
    if differences:
        raise InputError(
            f"{path}: made with another configuration ({'; '.join(differences)}). Use the same settings, or train "
            "again."
        )


def shortened(items: list[str]) -> str:
    """The first few of ``items``, and how many more there are."""
    rest = len(items) - _SHOWN
    return "; ".join(items[:_SHOWN]) + (f"; and {rest} more" if rest > 0 else "")


def _training_command(model: Path) -> str:
    config = model.parent.parent / "configs" / "train.json"
    return f"python -m monai.bundle run --config_file {config} --dataset_dir <folder of CT>"


def _plain(value: Any) -> Any:
    """``value`` in types that JSON and ``torch.load(weights_only=True)`` know; what has no such form as text."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, bool | int | float | str | type(None)) and type(value).__module__ == "builtins":
        return value
    if hasattr(value, "tolist"):  # numpy scalars and arrays, tensors
        return value.tolist()
    return str(value)

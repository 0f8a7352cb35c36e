"""Checkpoints that say what they are, are written whole, and are read without executing anything."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common.errors import InputError
from common.files import written_beside

logger = logging.getLogger(__name__)

Card = Mapping[str, Any]


def save_atomic(content: Any, path: str | Path) -> None:
    """``torch.save`` that leaves a complete file or the earlier one.

    Raises:
        InputError: when the file cannot be written (full disk, no permission).
    """
    with written_beside(path) as part:
        torch.save(content, part)


def load_checkpoint(path: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Tensors and plain Python values of a checkpoint; code in it is never run.

    Raises:
        InputError: when the file is missing, damaged, or holds more than tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        msg = f"{path}: no such checkpoint. Train first, or give the path of an existing one."
        raise InputError(msg)
    try:
        content = torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        msg = (
            f"{path}: holds more than tensors and plain values, so loading it could run foreign code, and it was not "
            "loaded. Use checkpoints written by this project, or convert the file where you trust it."
        )
        raise InputError(msg) from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        msg = f"{path}: is damaged or no checkpoint ({type(error).__name__}). Delete it and train again."
        raise InputError(msg) from error
    if not isinstance(content, dict):
        msg = f"{path}: holds a {type(content).__name__}, not a dictionary. Use checkpoints written by this project."
        raise InputError(msg)
    return content


def save_pretrained(path: str | Path, network: nn.Module, card: Card) -> None:
    """Write ``{"model": weights, "card": what they are}``.

    Args:
        path: e.g. ``models/model.pt``.
        network: the plain network, under the names of ``network_def``.
        card: plain values: method, spacing, structures, sizes, ... (see the bundles' ``card``).
    """
    save_atomic({"model": network.state_dict(), "card": dict(card)}, path)


def card_difference(expected: Card, found: Card, prefix: str = "") -> list[str]:
    """Every entry that differs, with both values, e.g. ``["spacing: [1.5, 1.5, 1.5] wanted, [3.0, 3.0, 3.0] found"]``.

    Nested dictionaries are compared entry by entry; lists and tuples are the same thing.
    """
    differences = []
    for key in [*expected, *(k for k in found if k not in expected)]:
        wanted, given = expected.get(key, "nothing"), found.get(key, "nothing")
        if isinstance(wanted, Mapping) and isinstance(given, Mapping):
            differences += card_difference(wanted, given, f"{prefix}{key}.")
        elif _plain(wanted) != _plain(given):
            differences.append(f"{prefix}{key}: {wanted} wanted, {given} found")
    return differences


def load_weights(
    network: nn.Module, path: str | Path, *, key: str = "model", expected_card: Card | None = None
) -> dict[str, Any]:
    """Load a trained model, all of it.

    Args:
        network: takes the weights.
        path: a file that :func:`save_pretrained` wrote; one without a card (from elsewhere) is taken by its weights.
        key: entry that holds the weights.
        expected_card: entries that the file's card must have.

    Returns:
        The card, empty when there is none.

    Raises:
        InputError: see :func:`load_checkpoint`; also when the card or the weights belong to another network.
    """
    path = Path(path)
    if not path.is_file():
        msg = (
            f"{path}: there is no trained model yet. Train one (python -m monai.bundle run --config_file "
            ".../configs/train.json --dataset_dir DIR), or pass --model."
        )
        raise InputError(msg)
    content = load_checkpoint(path)
    card = content.get("card", {})
    if expected_card is not None and card:
        differences = card_difference(expected_card, {k: card[k] for k in expected_card if k in card})
        if differences:
            msg = (
                f"{path}: trained with other settings ({'; '.join(differences)}). Give the overlays and settings of "
                "the training, or another model."
            )
            raise InputError(msg)
    weights = content.get(key)
    if not isinstance(weights, Mapping):
        msg = f"{path}: has no entry '{key}' (entries: {', '.join(map(str, content))}). Use a file written by training."
        raise InputError(msg)
    problems = _misfits(network.state_dict(), weights)
    if problems:
        some = "; ".join(problems[:3])
        msg = f"{path}: belongs to another network ({some}; {len(problems)} in all). Give that network's settings."
        raise InputError(msg)
    network.load_state_dict(weights)
    logger.info("%s: loaded (%s).", path, ", ".join(f"{k} {card[k]}" for k in ("method", "epoch") if k in card))
    return dict(card)


def _misfits(wanted: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor]) -> list[str]:
    problems = [f"{name} is missing" for name in wanted if name not in given]
    problems += [f"{name} is unknown" for name in given if name not in wanted]
    problems += [
        f"{name} is {list(given[name].shape)} instead of {list(wanted[name].shape)}"
        for name in wanted
        if name in given and given[name].shape != wanted[name].shape
    ]
    return problems


def _plain(value: Any) -> Any:
    """Lists for tuples, so that a value equals itself after a round trip through a file."""
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value

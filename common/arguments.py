"""Mistyped overrides on the command line of ``monai.bundle`` are errors, neither new keys nor texts that mean yes."""

from __future__ import annotations

import ast
import difflib
import inspect
import pydoc
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from monai.bundle import ComponentLocator, ConfigParser
from monai.bundle.config_item import ConfigComponent

from common.errors import InputError
from common.json_words import PYTHON_WORDS

# what `monai.bundle run` itself takes
_RUN_ARGUMENTS = frozenset(
    [
        "run_id",
        "init_id",
        "final_id",
        "meta_file",
        "config_file",
        "logging_file",
        "tracking",
        "args_file",
        "workflow_name",
        "workflow_type",
        "properties_path",
    ]
)

# MONAI reads values as Python does, but for None
_WORDS = {**PYTHON_WORDS, "null": "'$None'"}


def check_arguments(argv: Sequence[str] | None = None) -> None:
    """Refuse an override that no config file knows, and name the nearest known one; refuse ``true`` and ``false``.

    MONAI adds an unknown ``--key value`` to the configuration, where nothing reads it, and takes ``false`` for a text,
    with which the setting stays on. Only a command line of ``monai.bundle run`` is checked, with the file that it names
    as ``--args_file``; from Python, ``monai.bundle.run(**override)`` stays as it is.

    Args:
        argv: the command line. Default: this process's.

    Raises:
        InputError: naming the override.
    """
    argv = sys.argv if argv is None else argv
    if "monai" not in argv[0] or len(argv) < 2 or argv[1] != "run":
        return
    flags = _flags(argv[2:])
    given = {**_file_arguments(flags.get("args_file", "")), **flags}
    files = given.get("config_file")
    if not files:
        return
    config = ConfigParser.load_config_files(_file_list(files))
    overrides = {name.replace("::", "#"): value for name, value in given.items() if name not in _RUN_ARGUMENTS}
    for key, value in overrides.items():
        if isinstance(value, str) and value in _WORDS:
            raise InputError(f"--{key} {value}: would be a text. Write --{key} {_WORDS[value]}.")
        if not _known(config, key):
            names = [k for k in config if not k.startswith("_")]
            hint = _hint(key, names, f"Known ones: {', '.join(names[:30])}.")
        elif parameters := _parameters(config, key, overrides):
            parent = key.rpartition("#")[0]
            hint = _hint(key, [f"{parent}#{name}" for name in parameters], f"It takes {', '.join(parameters)}.")
        else:
            continue
        raise InputError(f"--{key}: no such setting in {files}. {hint}")


def _hint(key: str, names: Sequence[str], otherwise: str) -> str:
    near = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
    return f"Did you mean --{near[0]}?" if near else otherwise


def _flags(words: Sequence[str]) -> dict[str, str]:
    flags = {}
    for i, word in enumerate(words):
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            flags[name] = value if equals else (words[i + 1] if i + 1 < len(words) else "")
    return flags


def _file_arguments(args_file: str) -> dict[str, Any]:
    """Arguments in the file of ``--args_file``; those on the command line come before them."""
    if not args_file:
        return {}
    try:
        content = ConfigParser.load_config_file(args_file)
    except (OSError, ValueError) as error:
        msg = f"--args_file {args_file}: cannot be read as JSON ({error}). Check the path and the file."
        raise InputError(msg) from error
    if not isinstance(content, dict):
        raise InputError(f'--args_file {args_file}: not a map of arguments. Write it like {{"epochs": 5}}.')
    return content


def _file_list(files: str | Sequence[str]) -> list[str]:
    if not isinstance(files, str):
        return list(files)
    if files.lstrip().startswith("["):
        return list(ast.literal_eval(files))
    return [part.strip() for part in files.split(",")]


def _parameters(config: dict, key: str, overrides: Mapping[str, Any]) -> list[str]:
    """What the component of ``a#b#c`` takes, when ``c`` is new and not among that; empty when there is no saying."""
    *parents, last = key.split("#")
    if any("#".join(parents[:n]) in overrides for n in range(1, len(parents) + 1)):
        return []  # the component itself is given, and takes other arguments than the file's
    node = _node(config, parents)
    if not isinstance(node, dict) or last in node or "_target_" not in node or last in ConfigComponent.non_arg_keys:
        return []
    target = overrides.get("#".join([*parents, "_target_"]), node["_target_"])
    component = _located(target) if isinstance(target, str) else target
    try:
        parameters = inspect.signature(component).parameters if callable(component) else {}
    except (TypeError, ValueError):  # of built-in functions, some tell their signature and some do not
        return []
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    return [] if takes_any or last in parameters else list(parameters)


def _located(target: str) -> object:
    """The class or function of that dotted name, or short name within MONAI; ``None`` when there is none."""
    modules = ComponentLocator().get_component_module_name(target)
    if modules is not None:
        target = f"{modules if isinstance(modules, str) else modules[0]}.{target}"
    try:
        return pydoc.locate(target)
    except pydoc.ErrorDuringImport:
        return None  # MONAI will import it too, and say what is wrong with it


def _known(config: dict, key: str) -> bool:
    """Whether ``a#b#c`` exists. A new entry is fine where it is an argument: MONAI patches components that way."""
    *parents, last = key.split("#")
    node = _node(config, parents)
    if isinstance(node, list):
        return last.isdigit() and int(last) < len(node)
    return isinstance(node, dict) and (last in node or "_target_" in node or parents[-1:] == ["pretrain_overrides"])


def _node(config: dict, path: Sequence[str]) -> object:
    """What stands at the path; ``None`` when there is nothing."""
    node: object = config
    for part in path:
        if isinstance(node, dict) and part in node:
            node = node[part]
        elif isinstance(node, list) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        else:
            return None
    return node

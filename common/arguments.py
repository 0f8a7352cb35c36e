"""Mistyped overrides on the command line of ``monai.bundle`` are errors, not new keys."""

from __future__ import annotations

import ast
import difflib
import sys
from collections.abc import Sequence

from monai.bundle import ConfigParser

from common.errors import InputError

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


def check_arguments(argv: Sequence[str] | None = None) -> None:
    """Refuse an override that no config file knows, and name the nearest known one.

    MONAI adds an unknown ``--key value`` to the configuration, where nothing reads it. Only a command line of
    ``monai.bundle run`` is checked; from Python, ``monai.bundle.run(**override)`` stays as it is.

    Args:
        argv: the command line. Default: this process's.

    Raises:
        InputError: naming the unknown override.
    """
    argv = sys.argv if argv is None else argv
    if "monai" not in argv[0] or len(argv) < 2 or argv[1] != "run":
        return
    given = _flags(argv[2:])
    files = given.get("config_file")
    if not files:
        return
    config = ConfigParser.load_config_files(_file_list(files))
    for name in given:
        if name in _RUN_ARGUMENTS:
            continue
        key = name.replace("::", "#")
        if not _known(config, key):
            names = [k for k in config if not k.startswith("_")]
            near = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
            hint = f"Did you mean --{near[0]}?" if near else f"Known ones: {', '.join(names[:30])}."
            msg = f"--{name}: no such setting in {files}. {hint}"
            raise InputError(msg)


def _flags(words: Sequence[str]) -> dict[str, str]:
    flags = {}
    for i, word in enumerate(words):
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            flags[name] = value if equals else (words[i + 1] if i + 1 < len(words) else "")
    return flags


def _file_list(text: str) -> list[str]:
    if text.lstrip().startswith("["):
        return list(ast.literal_eval(text))
    return [part.strip() for part in text.split(",")]


def _known(config: dict, key: str) -> bool:
    """Whether ``a#b#c`` exists. A new entry is fine where it is an argument: MONAI patches components that way."""
    *parents, last = key.split("#")
    node: object = config
    for part in parents:
        if isinstance(node, dict) and part in node:
            node = node[part]
        elif isinstance(node, list) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        else:
            return False
    if isinstance(node, list):
        return last.isdigit() and int(last) < len(node)
    return isinstance(node, dict) and (last in node or "_target_" in node or parents[-1:] == ["pretrain_overrides"])

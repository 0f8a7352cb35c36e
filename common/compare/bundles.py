"""Bundles of a folder as the comparison sees them: their configs, and which of them fine-tune the same network."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from common.errors import InputError

# what a comparison gives each command; a bundle without one of these cannot take part
_NEEDED = {
    "pretrain": ("cases", "output_dir", "pretrained", "seed", "pretrain_epochs", "pretrain_steps"),
    "train": ("train#dataset#data", "validate#dataset#data", "network_def", "structures", "model", "output_dir"),
}
# what decides a training from scratch, apart from the cases, the seed and the learning rate
_DOWNSTREAM = (
    *("network_def", "loss", "optimizer", "lr_scheduler", "train#preprocessing", "train#inferer"),
    *("validate#preprocessing", "validate#inferer", "structures", "batch_size", "epochs", "steps", "val_interval"),
)
# settings of bundles that give pretrained layers smaller learning rates: from scratch, one rate serves everywhere
ONE_RATE = {"body_lr_factor": 1.0, "layer_decay": 1.0}
# which layers count as the head decides nothing where all of them learn at one rate
_ANY_HEAD = {"fresh_parts": "head"}
_HEAD = re.compile(r", head=(?:\[[^\]]*\]|[^,)]+)")
_REFERENCE = re.compile(r"@(\w+(?:(?:#|::)\w+)*)")


@dataclass(frozen=True)
class Bundle:
    """One bundle with the overlays of the comparison.

    Args:
        root: its folder.
        overlays: files merged after each command's own: names of configs of the bundle, or paths.
    """

    root: Path
    overlays: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.root.name

    def files(self, *configs: str) -> list[str]:
        """Config files of a command, e.g. ``("train", "evaluate")``, with the overlays."""
        return [str(self._file(config)) for config in (*configs, *self.overlays)]

    def config(self, *configs: str, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The merged content of these files, as MONAI merges them, with the overrides that the files know."""
        parser = ConfigParser(ConfigParser.load_config_files(self.files(*configs)))
        for name, value in self.known(overrides or {}, *configs).items():
            parser[name] = value
        return parser.get()

    def known(self, overrides: Mapping[str, Any], *configs: str) -> dict[str, Any]:
        """Those of the overrides that these files have, or a component of theirs may take (``method#pool``)."""
        parser = ConfigParser(ConfigParser.load_config_files(self.files(*configs)))
        return {name: value for name, value in overrides.items() if name in parser or _is_argument(parser, name)}

    def check(self) -> None:
        """Refuse a bundle that does not have what a comparison sets.

        Raises:
            InputError: naming the first missing setting.
        """
        for config, names in _NEEDED.items():
            parser = ConfigParser(ConfigParser.load_config_files(self.files(config)))
            for name in names:
                if name not in parser:
                    msg = f"{self.root}: {config}.json has no '{name}', which a comparison sets. Leave this bundle out."
                    raise InputError(msg)

    def _file(self, config: str) -> Path:
        inside = self.root / "configs" / f"{config}.json"
        path = inside if inside.is_file() else Path(config).expanduser().absolute()
        if not path.is_file():
            raise InputError(f"overlays: neither {inside} nor {config} is a file. Name one of the bundle's configs.")
        return path


def find_bundles(bundles_dir: str | Path, methods: Sequence[str], overlays: Sequence[str]) -> list[Bundle]:
    """The bundles of these names, sorted; ``["all"]`` names every one in the folder.

    Raises:
        InputError: no bundles there; an unknown name (the nearest is named); a bundle that cannot be compared.
    """
    root = Path(bundles_dir).expanduser().absolute()
    names = sorted(p.parent.parent.name for p in root.glob("*/configs/train.json"))
    if not names:
        raise InputError(
            f"{bundles_dir}: holds no bundles (no */configs/train.json). Pass the folder as --bundles_dir."
        )
    wanted = names if list(methods) == ["all"] else list(dict.fromkeys(methods))
    for name in wanted:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
            hint = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(names)}."
            raise InputError(f"methods: no bundle '{name}' in {bundles_dir}. {hint}")
    bundles = [Bundle(root / name, tuple(overlays)) for name in sorted(wanted)]
    for bundle in bundles:
        bundle.check()
    return bundles


def downstream(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a training from scratch with this ``train.json`` depends on, references written out.

    Two bundles for which this is equal train the same network from scratch, whatever they are called; they share one
    baseline. Learning rates are left out: from scratch, those of all of them are tried.
    """
    same = {name: value for name, value in {"lr": "LR", **ONE_RATE, **_ANY_HEAD}.items() if name in config}
    parser = ConfigParser({**config, **same})
    return {name: _written_out(parser, parser[name]) for name in _DOWNSTREAM if name in parser}


def fingerprint(content: Any) -> str:
    """Twelve hexadecimal digits of plain values."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _is_argument(parser: ConfigParser, name: str) -> bool:
    parent = name.rpartition("#")[0]
    return bool(parent) and parent in parser and isinstance(parser[parent], dict) and "_target_" in parser[parent]


def _written_out(parser: ConfigParser, node: Any) -> Any:
    """Plain values with every ``@reference`` replaced by what it names; nothing is evaluated."""
    if isinstance(node, dict):
        return {key: _written_out(parser, value) for key, value in node.items()}
    if isinstance(node, list):
        return [_written_out(parser, value) for value in node]
    if not isinstance(node, str):
        return node
    if (whole := _REFERENCE.fullmatch(node)) and whole[1] in parser:
        return _written_out(parser, parser[whole[1]])
    if not node.startswith("$"):
        return node

    def content(match: re.Match[str]) -> str:
        if match[1] not in parser:
            return match[0]
        return json.dumps(_written_out(parser, parser[match[1]]), sort_keys=True)

    return _HEAD.sub("", _REFERENCE.sub(content, node))

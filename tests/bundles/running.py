"""Runs a copied bundle's commands in this process, at tiny sizes."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import monai.bundle
import pytest
import torch

from common.adamw import FusedAdamW
from tests.bundles.discovery import REPOSITORY

TINY = REPOSITORY / "tests" / "bundles" / "tiny.json"


def copy_bundle(name: str, folder: Path) -> Path:
    """The bundle's files alone, elsewhere: nothing of the repository is written to."""
    root = folder / name
    shutil.copytree(REPOSITORY / "bundles" / name / "configs", root / "configs")
    return root


def tiny(root: Path) -> dict[str, Any]:
    """The tiny settings that this bundle knows."""
    bases = [c for c in ("train", "pretrain", "inference", "classify") if file(root, c).exists()]
    known = {key for c in bases for key in json.loads(file(root, c).read_text())}
    return {key: value for key, value in json.loads(TINY.read_text()).items() if key in known and key != "_summary_"}


def file(root: Path, config: str) -> Path:
    return root / "configs" / f"{config}.json"


def make_tiny(root: Path) -> None:
    """Let ``smoke.json`` of a copied bundle hold the tiny sizes."""
    content = {"_summary_": "tiny", **{k: v for k, v in tiny(root).items() if k != "device"}}
    content["phantoms"] = content["classify_phantoms"] = {"n_unlabelled": 2, "n_labelled": 4, "n_test": 1}
    file(root, "smoke").write_text(json.dumps(content))


def write_sizes(root: Path) -> None:
    """Write the tiny sizes into a copied bundle's own configs, for programs that read no overlay."""
    for base in ("train", "pretrain", "inference"):
        content = json.loads(file(root, base).read_text())
        sizes = {key: value for key, value in tiny(root).items() if key in content and key != "device"}
        file(root, base).write_text(json.dumps({**content, **sizes}))


def hide_common(folder: Path) -> Path:
    """A folder for ``PYTHONPATH`` with which Python finds no ``common``, although it is installed for development."""
    folder.mkdir()
    code = """
        import sys
        sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in (getattr(f, "__module__", None) or "")]
    """
    (folder / "sitecustomize.py").write_text("\n".join(line.strip() for line in code.splitlines()))
    return folder


def unzip(archive: Path, folder: Path) -> Path:
    """Unpack a packaged bundle; its folder."""
    with zipfile.ZipFile(archive) as file:
        file.extractall(folder)
    return folder / archive.name.rpartition("_v")[0]


def run(root: Path, *configs: str, **overrides: Any) -> None:
    """What ``python -m monai.bundle run`` does, with the tiny sizes."""
    settings = {
        **tiny(root),
        "logging_file": False,
        "device": "cpu",
        "bundle_root": str(root),
        **overrides,
    }
    monai.bundle.run(config_file=[str(file(root, c)) for c in configs], **settings)


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["model"]


def assert_same_weights(a: Path, b: Path) -> None:
    first, second = weights(a), weights(b)
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


@contextmanager
def interrupted(at_step: int, counts: Callable[[], bool] = lambda: True) -> Iterator[None]:
    """Ctrl-C comes just before an optimizer's step, and must end what runs inside.

    Args:
        at_step: the first one is 1.
        counts: whether this step counts.
    """
    real_step, n = FusedAdamW.step, 0

    def cut(self: FusedAdamW, *args: object, **kwargs: object) -> object:
        nonlocal n
        n += counts()
        if n == at_step:
            raise KeyboardInterrupt
        return real_step(self, *args, **kwargs)

    # else torch wraps it once more, and every step would call its hooks, a teacher's update among them, twice
    cut.hooked = True  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(FusedAdamW, "step", cut)
        with pytest.raises(KeyboardInterrupt):
            yield

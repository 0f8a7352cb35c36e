"""Networks that were exported to TorchScript, in place of the ones that a bundle's configs define."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import InputError


class ExportedNetwork(nn.Module):
    """The network in a TorchScript file of MONAI's ``ckpt_export``; stands for ``network_def`` in ``inference.json``.

    One override segments with the exported file, and needs no weights beside it::

        --network_def "{'_target_': 'common.exports.ExportedNetwork', 'path': 'model.ts'}"

    Args:
        path: the file.

    Raises:
        InputError: when there is no such file, or it holds no TorchScript.
    """

    def __init__(self, *, path: str | os.PathLike) -> None:
        super().__init__()
        if not Path(path).is_file():
            raise InputError(f"{path}: not there. Export a trained network first, see docs/export.md.")
        try:
            self.module = torch.jit.load(path, map_location="cpu")
            self.settings = _stored_settings(Path(path))
        except (RuntimeError, zipfile.BadZipFile, ValueError) as error:
            raise InputError(f"{path}: no TorchScript file, or damaged. Export the network again.") from error
        self.path = Path(path)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of an image, as the network that was exported gives them."""
        return self.module(x)


def _stored_settings(path: Path) -> dict[str, Any]:
    """Top-level settings of the config files that ``ckpt_export`` stored, later files over earlier ones.

    What was given on its command line beside the files is not stored.
    """
    settings: dict[str, Any] = {}
    with zipfile.ZipFile(path) as archive:
        stored = [n for n in archive.namelist() if Path(n).parent.name == "extra" and n.endswith(".json")]
        for name in sorted(stored, key=lambda n: Path(n).name != "inference.json"):
            if Path(name).name != "metadata.json":
                settings.update(json.loads(archive.read(name)))
    return settings

"""The main job on generated data: pretrain, fine-tune, segment, measure, draw."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.data.phantom import write_phantoms
from common.data.structures import ALL_STRUCTURES
from common.errors import InputError
from common.preview import preview


def run_demo(out_dir: Path, bundle: Path, *, overlays: tuple[str, ...] = ("smoke",)) -> str:
    """Run a bundle's commands one after the other, as a user would type them, and show what came out.

    The bundle's folder is copied into ``out_dir``, so that a model trained in the original stays as it is. What is
    there already is not done again.

    Args:
        out_dir: receives ``phantoms``, the bundle's copy with its models, ``masks`` and ``pictures``.
        bundle: folder of the bundle.
        overlays: config files merged after each command's own, without ``.json``.

    Returns:
        The Dice of every structure, and where the pictures are.

    Raises:
        InputError: when the bundle is not there, or a command failed (its own message stands above).
    """
    if not (bundle / "configs" / "train.json").is_file():
        msg = f"{bundle}: not a bundle (no configs/train.json). Run from the repository's folder, or pass --bundle."
        raise InputError(msg)
    started = time.monotonic()
    data, copy, masks, pictures = (out_dir / name for name in ("phantoms", bundle.name, "masks", "pictures"))
    shutil.copytree(bundle / "configs", copy / "configs", dirs_exist_ok=True)
    smoke = json.loads((copy / "configs" / "smoke.json").read_text(encoding="utf-8"))
    write_phantoms(data, **smoke["phantoms"])

    def run(*configs: str, **arguments: object) -> None:
        files = [f"{copy}/configs/{name}.json" for name in (*configs, *overlays)]
        command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(files), "--bundle_root", str(copy)]
        for name, value in arguments.items():
            command += [f"--{name}", str(value)]
        sys.stderr.write("\n$ " + shlex.join(["python", *command[1:]]) + "\n")
        if subprocess.run(command, check=False).returncode != 0:
            msg = f"{shlex.join(['python', *command[1:]])}: failed; the reason stands above."
            raise InputError(msg)

    run("train", dataset_dir=data)
    run("inference", dataset_dir=data / "imagesTs", output_dir=masks)
    run("train", "evaluate", dataset_dir=data, section="test", output_dir=out_dir / "metrics")

    pictures.mkdir(parents=True, exist_ok=True)
    shutil.copy(copy / "runs" / "pretrain" / "reconstruction.png", pictures / "reconstruction.png")
    for mask in sorted(masks.glob("*_seg.nii.gz")):
        case = mask.name.removesuffix("_seg.nii.gz")
        image = data / "imagesTs" / f"{case}.nii.gz"
        preview(image, mask, pictures / f"{case}_segmented.png", structures=ALL_STRUCTURES)
        preview(image, data / "labelsTs" / image.name, pictures / f"{case}_truth.png", structures=ALL_STRUCTURES)
    minutes = (time.monotonic() - started) / 60
    summary = json.loads((out_dir / "metrics" / "metrics.json").read_text(encoding="utf-8"))
    return "\n".join(
        [
            "Dice on volumes that training has not seen:",
            *(f"  {name:<18}{_dice(result)}" for name, result in summary["structures"].items()),
            f"  {'mean':<18}{_dice(summary['over_cases'])}",
            f"Done in {minutes:.1f} minutes. Pictures: {pictures}; masks: {masks}; metrics: {out_dir / 'metrics'}.",
        ]
    )


def _dice(result: Mapping[str, Any]) -> str:
    mean = result["dsc"]["mean"]
    return "not there" if mean is None else f"{mean:.2f}"

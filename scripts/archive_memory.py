"""Memory of reading crops from a prepared archive of many volumes against one of few: python scripts/archive_memory.py

One generated volume stands for all of them, under as many names. For each number of volumes a process of its own opens
the archive as a pretraining does and draws crops; its peak includes the imported packages.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import sys
import tempfile
from pathlib import Path

import numpy as np

from common.data.archive import INDEX, VERSION, image_file, write_array
from common.data.datalist import pretraining_items
from common.files import write_json
from common.recipes import cached_volume, chain, random_crops
from common.transforms.hu_window import HUWindowd
from common.volume_cache import VolumeCache

SPACING = (1.5, 1.5, 1.5)


def write_archive(folder: Path, n: int) -> None:
    """An archive of ``n`` names for one volume of 192 x 192 x 192."""
    names = [f"case_{i:06d}" for i in range(n)]
    hu = np.random.default_rng(0).integers(-100, 100, (192, 192, 192), dtype=np.int16)
    write_array(image_file(folder, names[0]), hu, SPACING)
    for name in names[1:]:
        os.link(image_file(folder, names[0]), image_file(folder, name))
    entry = {"subset": "unlabelled", "label": None, "annotated_ids": None}
    cases = {name: {**entry, "image": f"imagesUn/{name}.nii.gz"} for name in names}
    write_json(
        folder / INDEX,
        {"version": VERSION, "complete": True, "spacing": SPACING, "source": "/", "labels": None, "cases": cases},
    )


def peak_mib(folder: Path, crops: int) -> float:
    """Peak memory of a process that draws crops from an archive, MiB."""
    volume = cached_volume(spacing=SPACING, roi_size=(96, 96, 96))
    random = random_crops(
        roi_size=(96, 96, 96),
        spatial_dims=3,
        channels=HUWindowd(keys="image", level=40, width=400),
        rotate_degrees=0,
        scale=0,
    )
    dataset = VolumeCache(
        pretraining_items(folder), chain(volume, random), spacing=SPACING, copy_cache=False, progress=False
    )
    for i in range(crops):
        _ = dataset[i % len(dataset)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Memory of crops from an archive of many volumes.")
    parser.add_argument("--volumes", type=int, nargs=2, default=[10, 1000], help="default: 10 1000")
    parser.add_argument("--crops", type=int, default=200, help="crops that are drawn from each (default: 200)")
    chosen = parser.parse_args()
    peaks = []
    for n in chosen.volumes:
        with tempfile.TemporaryDirectory() as folder:
            write_archive(Path(folder), n)
            with multiprocessing.get_context("fork").Pool(1) as pool:  # a peak is that of a process
                peaks.append(pool.apply(peak_mib, (Path(folder), chosen.crops)))
        sys.stdout.write(f"{n} volumes: {peaks[-1]:.0f} MiB\n")
    sys.stdout.write(f"ratio {peaks[1] / peaks[0]:.3f}\n")


if __name__ == "__main__":
    main()

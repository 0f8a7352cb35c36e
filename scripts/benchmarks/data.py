"""How long a training waits for what it reads."""

from __future__ import annotations

import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from benchmarks.rows import Case, row
from common.data.archive import write_array
from common.transforms.prepared import PreparedVolume


@row
def crop(device: torch.device) -> Case:  # noqa: ARG001 (volumes are read by the CPU)
    """A random crop of 96 x 96 x 96 of a volume of 512 x 512 x 200 on disk, int16 HU"""
    folder = tempfile.TemporaryDirectory()
    rng = np.random.default_rng(0)
    volume = _noisy_body(rng, (512, 512, 200))
    nifti, archive = Path(folder.name) / "volume.nii.gz", Path(folder.name) / "volume.b2nd"
    nib.save(nib.Nifti1Image(volume, np.diag([0.7, 0.7, 1.5, 1.0])), nifti)
    write_array(archive, volume, (0.7, 0.7, 1.5))

    def box() -> tuple[slice, ...]:
        starts = [int(rng.integers(n - 95)) for n in volume.shape]
        return tuple(slice(start, start + 96) for start in starts)

    def ours(folder: tempfile.TemporaryDirectory = folder) -> object:  # the folder lives as long as this function
        return PreparedVolume(f"{folder.name}/volume.b2nd", spatial_size=(96, 96, 96), fill=-1024)[(slice(1), *box())]

    return Case(
        ours,
        lambda: np.asanyarray(nib.Nifti1Image.from_filename(nifti).dataobj)[box()].copy(),
        "nibabel of the .nii.gz, sliced",
    )


def _noisy_body(rng: np.random.Generator, shape: tuple[int, int, int]) -> np.ndarray:
    """Air around an ellipse of soft tissue, with a scanner's noise, which is what compression has to cope with."""
    x, y = (np.linspace(-1, 1, n) for n in shape[:2])
    body = (x[:, None] / 0.8) ** 2 + (y[None] / 0.6) ** 2 < 1
    noise = np.rint(rng.normal(0, 20, (*shape[:2], 16))).astype(np.int16)  # repeated slice by slice, shifted
    slices = [np.roll(noise[..., k % 16], 7 * k, axis=0) for k in range(shape[2])]
    return np.stack(slices, axis=-1) + np.where(body, 40, -1000).astype(np.int16)[..., None]

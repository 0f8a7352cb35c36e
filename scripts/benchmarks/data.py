"""How long a training waits for what it reads."""

from __future__ import annotations

import tempfile
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, CropForegroundd, LoadImaged, Orientationd, Spacingd
from torch.nn.functional import conv2d, pad

from benchmarks.rows import Case, row
from common.data.archive import write_array
from common.recipes import BODY_MARGIN, in_body, preprocessing
from common.transforms.chest_channels import LUNG, MEDIASTINUM, ChestChannels
from common.transforms.prepared import PreparedVolume
from common.transforms.spacing import SafeSpacingd


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


@row
def resample(device: torch.device) -> Case:
    """512 x 512 x 200 voxels of 0.75 x 0.75 x 1 mm to 1.5 mm, float32"""
    affine = torch.diag(torch.tensor([0.75, 0.75, 1.0, 1.0], dtype=torch.float64))
    volume = torch.from_numpy(_noisy_body(np.random.default_rng(0), (512, 512, 200))[None]).float()
    data: dict[Hashable, torch.Tensor] = {"image": MetaTensor(volume.to(device), affine=affine)}
    arguments: dict[str, Any] = {"keys": "image", "pixdim": (1.5, 1.5, 1.5), "padding_mode": "border"}
    arguments["dtype"] = "float32"
    ours, monai = SafeSpacingd(**arguments), Spacingd(**arguments)
    return Case(lambda: ours(data), lambda: monai(data), "MONAI `Spacingd`")


@row
def channels(device: torch.device) -> Case:
    """Lung window, mediastinal window and edges of a crop of 96 x 96 x 96"""
    hu = torch.from_numpy(_noisy_body(np.random.default_rng(0), (96, 96, 96))[None]).float().to(device)
    ours = ChestChannels()
    kernel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]], device=device) / 4
    kernels = torch.stack([kernel, kernel.T])[:, None]

    def by_convolution() -> torch.Tensor:
        both = torch.cat([((hu - (level - width / 2)) / width).clamp(0, 1) for level, width in (LUNG, MEDIASTINUM)])
        slices = pad(both.permute(0, 3, 1, 2).flatten(0, 1)[:, None], (1, 1, 1, 1), mode="reflect")
        edges = conv2d(slices, kernels).square().sum(1).sqrt().clamp(max=1)
        return torch.cat([both, edges.unflatten(0, (2, -1)).permute(0, 2, 3, 1).amax(0, keepdim=True)])

    return Case(
        lambda: ours(hu),
        by_convolution,
        "`conv2d` of all slices with both Sobel kernels",
        lambda: f"largest difference {(ours(hu) - by_convolution()).abs().max():.1e}",
    )


@row
def volume_on_grid(device: torch.device) -> Case:  # noqa: ARG001 (volumes are read by the CPU)
    """From a .nii.gz of 512 x 512 x 200 voxels of 0.75 x 0.75 x 1 mm, int16 HU, to 1.5 mm in RAS"""
    folder = tempfile.TemporaryDirectory()
    path = Path(folder.name) / "volume.nii.gz"
    nib.save(
        nib.Nifti1Image(_noisy_body(np.random.default_rng(0), (512, 512, 200)), np.diag([-0.75, -0.75, 1, 1])), path
    )
    ours = preprocessing(spacing=(1.5, 1.5, 1.5))
    monai = Compose(
        [
            LoadImaged(keys="image", ensure_channel_first=True),
            Orientationd(keys="image", axcodes="RAS", labels=None),
            Spacingd(keys="image", pixdim=(1.5, 1.5, 1.5), padding_mode="border", dtype="float32"),
            CropForegroundd(keys="image", source_key="image", select_fn=in_body, margin=BODY_MARGIN),
        ]
    )

    def read(folder: tempfile.TemporaryDirectory = folder) -> object:  # the folder lives as long as this function
        return ours({"image": f"{folder.name}/volume.nii.gz"})

    return Case(read, lambda: monai({"image": str(path)}), "MONAI's transforms for the same")


def _noisy_body(rng: np.random.Generator, shape: tuple[int, int, int]) -> np.ndarray:
    """Air around an ellipse of soft tissue, with a scanner's noise, which is what compression has to cope with."""
    x, y = (np.linspace(-1, 1, n) for n in shape[:2])
    body = (x[:, None] / 0.8) ** 2 + (y[None] / 0.6) ** 2 < 1
    noise = np.rint(rng.normal(0, 20, (*shape[:2], 16))).astype(np.int16)  # repeated slice by slice, shifted
    slices = [np.roll(noise[..., k % 16], 7 * k, axis=0) for k in range(shape[2])]
    return np.stack(slices, axis=-1) + np.where(body, 40, -1000).astype(np.int16)[..., None]

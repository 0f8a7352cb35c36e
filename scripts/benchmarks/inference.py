"""From a file to its mask: sliding windows against the network alone, and all of it against MONAI's usual way."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from monai.inferers import SlidingWindowInferer
from monai.transforms import (
    AsDiscrete,
    AsDiscreted,
    Compose,
    CropForegroundd,
    EnsureChannelFirstd,
    Invertd,
    LoadImaged,
    Orientationd,
    SaveImaged,
    ScaleIntensityRanged,
    Spacingd,
)
from torch import Tensor
from torch.nn import functional as F

from benchmarks.rows import Case, row
from benchmarks.tax import bundle_config
from common.data.phantom import phantom
from common.handlers import finish_volumes
from common.inferers import AutocastInferer, WindowInferer
from common.recipes import BODY_MARGIN, in_body

SPACING = (2.0, 2.0, 2.0)
ROI = (64, 64, 64)
OVERLAP = 0.5


class VotesAndUNet(torch.nn.Module):
    """The smoke network's work, with scores that masks can be compared of: an untrained network's are noise.

    Each block of four voxels votes for the class that its intensity is nearest to, smoothed over its neighbours; the
    network adds next to nothing. Blobs of several centimetres come out, as organs are.
    """

    def __init__(self, unet: torch.nn.Module, n_classes: int) -> None:
        super().__init__()
        self.unet = unet
        self.centres: Tensor
        self.register_buffer("centres", torch.linspace(0.0, 1.0, n_classes).view(-1, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        blocks = F.avg_pool3d(x, 4)
        votes = F.avg_pool3d((-50 * (blocks - self.centres).abs()).softmax(1), 3, stride=1, padding=1)
        return F.interpolate(votes, scale_factor=4, mode="trilinear").add_(self.unet(x), alpha=1e-6)


def _config(device: torch.device, **settings: Any) -> ConfigParser:
    """``inference.json`` of amlp with ``smoke.json`` on top, at 2 mm."""
    sizes = {"spacing": list(SPACING), "roi_size": list(ROI), "overlap": OVERLAP, "preview": False}
    parser = bundle_config("amlp", "inference", {**sizes, "device": device, **settings})
    torch.manual_seed(0)
    parser["network"] = VotesAndUNet(parser.get_parsed_content("network_def"), len(parser["structures"]) + 1).to(device)
    return parser


@row
def windows(device: torch.device) -> Case:
    """Sliding windows to channel indices, smoke network, 14 classes, 96 x 96 x 192, windows of 64, overlap 0.5"""
    ours, network, image = _windows(device)
    alone = AutocastInferer(channels_last=True)
    n = 2 * 2 * 5  # the windows that such a volume takes

    @torch.no_grad()
    def passes() -> None:
        for _ in range(n):
            alone(image[..., :64, :64, :64], network)

    return Case(ours, passes, f"{n} passes of the network alone")


@row
def windows_monai(device: torch.device) -> Case:
    """The same"""
    ours, network, image = _windows(device)
    inferer = AutocastInferer(SlidingWindowInferer(ROI, overlap=OVERLAP, mode="gaussian"), channels_last=True)
    discrete = AsDiscrete(argmax=True)

    @torch.no_grad()
    def monai() -> Any:
        return discrete(inferer(image, network)[0])

    def agreement() -> str:
        return f"the same channel in {100 * (monai() == ours()[0]).double().mean():.4f} % of the voxels"

    return Case(ours, monai, "MONAI's SlidingWindowInferer and AsDiscrete", agreement)


@row
def windows_half(device: torch.device) -> Case:
    """The same, summed in float16"""
    exact, *_ = _windows(device)
    half, *_ = _windows(device, stitch_half=True)

    def agreement() -> str:
        return f"the same channel in {100 * (half() == exact()).double().mean():.4f} % of the voxels"

    return Case(half, exact, "summed in float32", agreement)


def _windows(device: torch.device, **options: Any) -> tuple[Callable[[], Tensor], torch.nn.Module, Tensor]:
    network = _config(device).get_parsed_content("network").eval()
    coarse = torch.rand(1, 1, 12, 12, 24, generator=torch.Generator().manual_seed(0)).to(device)
    image = F.interpolate(coarse, scale_factor=8, mode="trilinear") * 0.4
    inferer = WindowInferer(roi_size=ROI, overlap=OVERLAP, channels_last=True, argmax=True, **options)
    return lambda: inferer(image, network), network, image


@row
def inference(device: torch.device) -> Case:
    """File to mask, 512 x 512 x 100 voxels of 0.8 x 0.8 x 2.5 mm, 14 classes at 2 mm, the windows above"""
    folder = _chests(1)
    ours = _ours(device, folder)
    monai = _monai(device, ours, folder)

    def agreement() -> str:
        a, b = (
            np.asanyarray(nib.Nifti1Image.from_filename(folder / way / "chest0_seg.nii.gz").dataobj)
            for way in ("ours", "monai")
        )
        channels = np.zeros(256, np.uint8)
        channels[list(ours["structures"].values())] = np.arange(1, len(ours["structures"]) + 1)
        a = channels[a]
        dice = [2 * np.sum((a == c) & (b == c)) / (np.sum(a == c) + np.sum(b == c)) for c in np.unique(b) if c]
        same = 100 * np.mean(a == b)
        return f"the same class in {same:.2f} % of the voxels, mean Dice {np.mean(dice):.4f} of {len(dice)} classes"

    return Case(ours.get_parsed_content("evaluator").run, monai.run, "MONAI: Invertd of all, then argmax", agreement)


@row
def inference_of_three(device: torch.device) -> Case:
    """Three such files, loading and saving beside the network; only the wall clock sees it"""
    beside, after = (
        _ours(device, _chests(3), background=background).get_parsed_content("evaluator") for background in (True, False)
    )
    return Case(beside.run, after.run, "one stage after the other")


def _ours(device: torch.device, folder: Path, **settings: Any) -> ConfigParser:
    logging.getLogger(finish_volumes.__name__).setLevel(logging.INFO)  # the seconds of each stage
    return _config(device, dataset_dir=str(folder / "in"), output_dir=str(folder / "ours"), **settings)


def _monai(device: torch.device, ours: ConfigParser, folder: Path) -> SupervisedEvaluator:
    """As most bundles do it, but cut to the body as ours is, so that the windows are the same."""
    level, width = ours["hu_window"]
    window: dict[str, Any] = {
        "a_min": level - width / 2,
        "a_max": level + width / 2,
        "b_min": 0,
        "b_max": 1,
        "clip": True,
    }
    image: dict[str, Any] = {"keys": "image"}
    preprocessing = Compose(
        [
            LoadImaged(**image),
            EnsureChannelFirstd(**image),
            Orientationd(**image, axcodes="RAS", labels=None),
            Spacingd(**image, pixdim=SPACING, mode="bilinear"),
            CropForegroundd(**image, source_key="image", select_fn=in_body, margin=BODY_MARGIN, allow_smaller=True),
            ScaleIntensityRanged(**image, **window),
        ]
    )
    postprocessing = Compose(
        [
            Invertd(keys="pred", transform=preprocessing, orig_keys="image", nearest_interp=False, to_tensor=True),
            AsDiscreted(keys="pred", argmax=True),
            SaveImaged(
                keys="pred",
                output_dir=folder / "monai",
                output_postfix="seg",
                output_dtype="uint8",
                separate_folder=False,
                print_log=False,
            ),
        ]
    )
    files = [{"image": str(path)} for path in sorted((folder / "in").iterdir())]
    return SupervisedEvaluator(
        device=device,
        val_data_loader=DataLoader(Dataset(files, preprocessing), batch_size=1),
        network=ours.get_parsed_content("network"),
        inferer=AutocastInferer(SlidingWindowInferer(ROI, overlap=OVERLAP, mode="gaussian"), channels_last=True),
        postprocessing=postprocessing,
    )


_folders: list[tempfile.TemporaryDirectory] = []  # as long as the process


@cache
def _chests(n: int) -> Path:
    """A folder with ``in/chest<i>.nii.gz``."""
    _folders.append(tempfile.TemporaryDirectory())
    folder = Path(_folders[-1].name)
    (folder / "in").mkdir()
    hu, affine = _chest()
    for i in range(n):
        nib.save(nib.Nifti1Image(hu, affine), folder / "in" / f"chest{i}.nii.gz")
    return folder


@cache
def _chest() -> tuple[np.ndarray, np.ndarray]:
    """A generated chest, int16 HU, and its affine."""
    made = phantom(0, shape=(512, 512, 100), spacing=(0.8, 0.8, 2.5))
    return made.hu, made.affine

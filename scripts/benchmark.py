"""Time what this project replaces: ours against a named alternative, alternated in one process, medians.

    python scripts/benchmark.py                     every row
    python scripts/benchmark.py ssim --repeats 9    one row
    python scripts/benchmark.py --json times.json   the same, and a file

Ratios carry over between machines, milliseconds do not. One thread, unless ``--threads`` says otherwise; start it with
``OMP_NUM_THREADS=1``. A new row is one function that makes its inputs and returns a :class:`Case`; its name is the
row's name and its docstring the row's description.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import importlib.util
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import monai
import nibabel as nib
import numpy as np
import torch
from monai.losses.dice import DiceCELoss
from monai.losses.ssim_loss import SSIMLoss as MonaiSSIMLoss
from torch import Tensor

from common.data.archive import write_array
from common.losses.ranking import pairwise_ranking_loss
from common.losses.segmentation import PartialDiceCELoss
from common.losses.ssim import SSIMLoss
from common.masking.lesion import cluster_patches
from common.masking.patches import patchify
from common.methods.anatomask import AnatoMask, AnatoMaskLoss
from common.methods.selfmedhpm import SelfMedHPM, SelfMedHPMLoss
from common.methods.teacher import EMATeacher
from common.networks.masked_autoencoder import MaskedAutoencoder
from common.networks.masked_conv import InstanceNorm, visible_voxels
from common.networks.spark import SparK
from common.networks.stunet_blocks import ResidualBlock
from common.networks.vit import SIZES, ViT
from common.transforms.prepared import PreparedVolume


@dataclass
class Case:
    """Two ways to the same result, each a function without arguments."""

    ours: Callable[[], object]
    alternative: Callable[[], object]
    alternative_name: str


@dataclass
class Result:
    """A measured row; times are medians in milliseconds."""

    name: str
    description: str
    alternative: str
    ours_ms: float
    alternative_ms: float
    ratio: float
    repeats: int


ROWS: dict[str, Callable[[torch.device], Case]] = {}


def row(make: Callable[[torch.device], Case]) -> Callable[[torch.device], Case]:
    """Register a row under the name of its function."""
    ROWS[make.__name__] = make
    return make


def _step(loss: Callable[[Tensor, Tensor], Tensor], prediction: Tensor, target: Tensor) -> Callable[[], object]:
    """Forward and backward of a loss."""

    def run() -> None:
        prediction.grad = None
        loss(prediction, target).backward()

    return run


@row
def ssim(device: torch.device) -> Case:
    """SSIM loss, forward and backward, (1, 3, 96, 96, 96), window 7"""
    prediction = torch.rand(1, 3, 96, 96, 96, device=device, requires_grad=True)
    target = torch.rand(1, 3, 96, 96, 96, device=device)
    ours = SSIMLoss(spatial_dims=3, window_size=7, padding="valid")
    theirs = MonaiSSIMLoss(spatial_dims=3, win_size=7, kernel_sigma=1.5)
    return Case(_step(ours, prediction, target), _step(theirs, prediction, target), "monai.losses.SSIMLoss")


@row
def dice_ce(device: torch.device) -> Case:
    """Dice and cross entropy, forward and backward, (1, 14, 96, 96, 96)"""
    logits = torch.randn(1, 14, 96, 96, 96, device=device, requires_grad=True)
    label = torch.randint(14, (1, 1, 96, 96, 96), device=device)
    theirs = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False)
    ours = PartialDiceCELoss(n_classes=14)
    return Case(_step(ours, logits, label), _step(theirs, logits, label), "monai.losses.DiceCELoss")


@row
def ranking(device: torch.device) -> Case:
    """Pairwise ranking loss, forward and backward, 4 x 162 hidden patches"""
    return _ranking(device, _ranking_as_printed, "both lines of Eq. 1 as matrices, with log(sigmoid + 1e-6)")


@row
def ranking_loop(device: torch.device) -> Case:
    """The same of one sample against one operation per pair"""
    return _ranking(device, _ranking_pair_by_pair, "Eq. 1 pair by pair in Python", batch=1)


def _ranking(device: torch.device, theirs: Callable[[Tensor, Tensor], Tensor], name: str, *, batch: int = 4) -> Case:
    scores = torch.randn(batch, 162, device=device, requires_grad=True)
    losses = torch.rand(batch, 162, device=device)
    return Case(_step(pairwise_ranking_loss, scores, losses), _step(theirs, scores, losses), name)


def _ranking_as_printed(scores: Tensor, losses: Tensor) -> Tensor:
    harder = losses[:, :, None] > losses[:, None, :]
    easier = losses[:, :, None] < losses[:, None, :]
    p = torch.sigmoid(scores[:, :, None] - scores[:, None, :])
    total = -(harder * torch.log(p + 1e-6)).sum() - (easier * torch.log(1 - p + 1e-6)).sum()
    return total / (harder.sum() + easier.sum())


def _ranking_pair_by_pair(scores: Tensor, losses: Tensor) -> Tensor:
    costs = []
    for sample, difficulty in zip(scores, losses.tolist(), strict=True):
        n = len(difficulty)
        for i, j in ((i, j) for i in range(n) for j in range(n) if difficulty[i] != difficulty[j]):
            difference = sample[i] - sample[j]
            costs.append(torch.nn.functional.softplus(-difference if difficulty[i] > difficulty[j] else difference))
    return torch.stack(costs).mean()


@row
def mining(device: torch.device) -> Case:
    """A pretraining step of selfMedHPM, ViT-B/16, one crop of 96 x 96 x 96, with AdamW and the teacher's update"""
    return Case(
        _selfmedhpm_step(device, predictor_depth=8, mining=True),
        _selfmedhpm_step(device, predictor_depth=0, mining=False),
        "the same without loss predictor and teacher (MAE)",
    )


@row
def mining_four_blocks(device: torch.device) -> Case:
    """The same with a loss predictor of 4 blocks, and a teacher that sees a quarter of the patches"""
    return Case(
        _selfmedhpm_step(device, predictor_depth=4, mining=True, teacher_input="masked"),
        _selfmedhpm_step(device, predictor_depth=0, mining=False),
        "the same without loss predictor and teacher (MAE)",
    )


def _pretraining_step(method: Any, criterion: torch.nn.Module, image: Tensor) -> Callable[[], object]:
    """Forward, backward, AdamW, and the teacher's update."""
    method.to(image.device).set_progress(1.0)
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        criterion(method(image)).backward()
        optimizer.step()
        method.update_teacher()

    return step


def _selfmedhpm_step(device: torch.device, *, predictor_depth: int, **options: Any) -> Callable[[], object]:
    size: dict[str, Any] = dict(SIZES["B"])
    network = MaskedAutoencoder(ViT(img_size=(96, 96, 96), **size), predictor_depth=predictor_depth)
    return _pretraining_step(
        SelfMedHPM(network, **options), SelfMedHPMLoss(), torch.rand(1, 1, 96, 96, 96, device=device)
    )


@row
def kmeans(device: torch.device) -> Case:
    """k-means of 8 x 216 patches of 16 x 16 x 16 voxels, k = 2; the alternative has one start"""
    return _kmeans(device, starts=1)


@row
def kmeans_ten_starts(device: torch.device) -> Case:
    """The same with ten starts, which ours always has"""
    return _kmeans(device, starts=10)


def _kmeans(device: torch.device, *, starts: int) -> Case:
    """scikit-learn where it is installed, a sample at a time as it works; else the same algorithm written in torch."""
    coarse = torch.rand(8, 1, 24, 24, 24, device=device)
    volume = torch.nn.functional.interpolate(coarse, size=(96, 96, 96), mode="trilinear")
    patches = patchify(volume, 16)
    name = f"{starts} start{'s' if starts > 1 else ''}, a sample at a time"
    if importlib.util.find_spec("sklearn") is None:
        alternative = [_LloydKMeans(n_init=starts) for _ in patches]
        return Case(
            lambda: cluster_patches(patches),
            lambda: [k.fit(sample) for k, sample in zip(alternative, patches, strict=True)],
            f"Lloyd's algorithm in torch (scikit-learn is not installed), {name}",
        )
    estimator = importlib.import_module("sklearn.cluster").KMeans(n_clusters=2, n_init=starts)
    return Case(
        lambda: cluster_patches(patches),
        lambda: [estimator.fit(sample.cpu().numpy()) for sample in patches],
        f"sklearn.cluster.KMeans, {name}",
    )


@dataclass
class _LloydKMeans:
    """Two means by k-means++ and Lloyd's iterations until the centroids rest, reading the data every time."""

    n_init: int

    def fit(self, x: Tensor) -> Tensor:
        """Least inertia of the rows of ``x`` (n, D)."""
        return torch.stack([self._start(x) for _ in range(self.n_init)]).min()

    def _start(self, x: Tensor) -> Tensor:
        first = x[torch.randint(len(x), (1,), device=x.device)]
        centroids = torch.cat([first, x[torch.multinomial((x - first).square().sum(1), 1)]])
        for _ in range(300):
            labels = torch.cdist(x, centroids).argmin(1)
            moved = torch.stack([x[labels == k].mean(0) for k in range(2)])
            if torch.equal(moved, centroids):
                break
            centroids = moved
        return torch.cdist(x, centroids).square().amin(1).sum()


def _visible(batch: int, grid: int, device: torch.device) -> Tensor:
    """Two fifths of the patches of a cube, bool (B, grid, grid, grid)."""
    n = grid**3
    return (torch.rand(batch, n, device=device).argsort(1) < round(0.4 * n)).view(batch, grid, grid, grid)


@row
def masked_norm(device: torch.device) -> Case:
    """Instance norm of the visible 40 %, forward and backward, (2, 32, 64, 64, 64), float32"""
    return _masked_norm(device, torch.float32)


@row
def masked_norm_bf16(device: torch.device) -> Case:
    """The same in bf16"""
    return _masked_norm(device, torch.bfloat16)


def _masked_norm(device: torch.device, dtype: torch.dtype) -> Case:
    x = torch.randn(2, 32, 64, 64, 64, device=device, dtype=dtype).requires_grad_()
    gradient = torch.randn_like(x)
    patches = _visible(2, 4, device)
    visible = visible_voxels(patches, x.shape[2:])
    norm = InstanceNorm(32).to(device)

    def ours() -> None:
        norm(x, visible).backward(gradient)

    def gathering() -> None:
        """As sparse layers are commonly emulated: visible rows out, 1D norm over all of them, rows back in."""
        rows = x.movedim(1, -1)
        seen = visible[:, 0] > 0
        normalised = torch.nn.functional.instance_norm(rows[seen].T[None], weight=norm.weight, bias=norm.bias)
        made = torch.zeros_like(rows)
        made[seen] = normalised[0].T.to(made.dtype)
        made.movedim(-1, 1).backward(gradient)

    return Case(ours, gathering, "gather, InstanceNorm1d, scatter (pools the batch)")


@row
def ema(device: torch.device) -> Case:
    """Moving average of SparK on STU-Net-B, 53 million parameters"""
    student = SparK(size="B").to(device)
    teacher, other = EMATeacher(student), copy.deepcopy(student)

    def loop() -> None:
        with torch.no_grad():
            for old, new in zip(other.state_dict().values(), student.state_dict().values(), strict=True):
                old.copy_(old * 0.999 + new * 0.001)

    return Case(lambda: teacher.update(student, 0.0), loop, "a loop over tensors")


@row
def anatomask_step(device: torch.device) -> Case:
    """AnatoMask, a training step of STU-Net-S on one crop of 64 x 64 x 64, half of the hidden patches hard"""
    return Case(_anatomask_step(device, "teacher"), _anatomask_step(device, "none"), "SparK")


@row
def spark_step(device: torch.device) -> Case:
    """SparK, the same step"""
    network = SparK(size="S").to(device)
    x = torch.rand(1, 1, 64, 64, 64, device=device)

    def dense() -> None:
        """The same modules with nothing hidden, and a plain squared error."""
        y: Tensor | None = None
        for block, seen in zip(network.decoder, network.encode(x)[:0:-1], strict=True):
            y = block(seen if y is None else y + seen)
        (network.head(y) - x).square().mean().backward()

    return Case(_anatomask_step(device, "none"), dense, "a dense pass of the same encoder and decoder blocks")


def _anatomask_step(device: torch.device, guidance: str) -> Callable[[], object]:
    method = AnatoMask(SparK(size="S"), guidance=guidance)
    return _pretraining_step(method, AnatoMaskLoss(), torch.rand(1, 1, 64, 64, 64, device=device))


@row
def masked_block(device: torch.device) -> Case:
    """Masked residual block, 32 channels, (1, 32, 64, 64, 64), forward and backward, 40 % visible"""
    block = ResidualBlock(spatial_dims=3, in_channels=32, out_channels=32, project=False).to(device)
    patches = _visible(1, 4, device)
    visible = visible_voxels(patches, (64, 64, 64))
    x = torch.randn(1, 32, 64, 64, 64, device=device) * visible
    seen = patches.flatten().nonzero()[:, 0]

    def ours() -> None:
        block(x.requires_grad_(), visible).sum().backward()

    def convolve(conv: torch.nn.Module, cubes: Tensor) -> Tensor:
        """Visible cubes (K, C, 16, 16, 16) and the rim of their neighbours, convolved without padding."""
        channels = cubes.shape[1]
        whole = cubes.new_zeros(64, channels, 16, 16, 16).index_copy(0, seen, cubes)
        whole = whole.view(4, 4, 4, channels, 16, 16, 16).permute(3, 0, 4, 1, 5, 2, 6).reshape(channels, 64, 64, 64)
        rims = torch.nn.functional.pad(whole, [1] * 6)
        for axis in (1, 2, 3):
            rims = rims.unfold(axis, 18, 16)
        rims = rims.reshape(channels, 64, 18, 18, 18).index_select(1, seen).movedim(1, 0)
        return torch.nn.functional.conv3d(rims, conv.get_parameter("weight"), conv.get_parameter("bias"))

    def normalise(norm: InstanceNorm, cubes: Tensor) -> Tensor:
        flat = cubes.movedim(1, 0).reshape(1, cubes.shape[1], -1)
        flat = torch.nn.functional.instance_norm(flat, weight=norm.weight, bias=norm.bias)
        return flat.view(cubes.shape[1], -1, 16, 16, 16).movedim(0, 1)

    def by_cubes() -> None:
        cubes = x.detach().view(32, 4, 16, 4, 16, 4, 16).permute(1, 3, 5, 0, 2, 4, 6).reshape(64, 32, 16, 16, 16)
        cubes = cubes.index_select(0, seen).requires_grad_()
        y = torch.nn.functional.leaky_relu(normalise(block.norm1, convolve(block.conv1, cubes)), 0.01)
        y = normalise(block.norm2, convolve(block.conv2, y)) + cubes
        torch.nn.functional.leaky_relu(y, 0.01).sum().backward()

    return Case(ours, by_cubes, "visible cubes with their rims only")


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


def _milliseconds(run: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return 1000 * (time.perf_counter() - start)


def measure(name: str, *, device: torch.device, repeats: int) -> Result:
    """Time one row: one warm-up of each, then both in turn."""
    case = ROWS[name](device)
    times: tuple[list[float], list[float]] = ([], [])
    for repeat in range(repeats + 1):
        for run, kept in zip((case.ours, case.alternative), times, strict=True):
            elapsed = _milliseconds(run, device)
            if repeat:
                kept.append(elapsed)
    ours, alternative = map(statistics.median, times)
    description = (ROWS[name].__doc__ or name).strip()
    return Result(name, description, case.alternative_name, ours, alternative, alternative / ours, repeats)


def table(results: list[Result]) -> str:
    """Results as a Markdown table."""
    lines = ["| row | what | ours, ms | alternative | its ms | ratio |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {r.name} | {r.description} | {r.ours_ms:.1f} | {r.alternative} | {r.alternative_ms:.1f} | {r.ratio:.1f} |"
        for r in results
    ]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> list[Result]:
    """Measure the rows that the command line names."""
    parser = argparse.ArgumentParser(description="Ours against a named alternative, alternated, medians.")
    parser.add_argument("rows", nargs="*", metavar="row", help=f"any of: {', '.join(ROWS)}; all when none is named")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of each (default: 5)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch (default: 1)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--json", metavar="FILE", help="also write the numbers and the versions there")
    chosen = parser.parse_args(arguments)
    unknown = [name for name in chosen.rows if name not in ROWS]
    if unknown:
        parser.error(f"no row named {', '.join(unknown)}; there are {', '.join(ROWS)}")
    if chosen.repeats < 1 or chosen.threads < 1:
        parser.error("--repeats and --threads must be at least 1")

    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    device = torch.device(chosen.device)
    results = [measure(name, device=device, repeats=chosen.repeats) for name in chosen.rows or ROWS]
    sys.stdout.write(table(results))
    if chosen.json:
        machine = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
        report = {
            "torch": torch.__version__,
            "monai": monai.__version__,
            "machine": machine,
            "threads": chosen.threads,
            "rows": [asdict(r) for r in results],
        }
        with open(chosen.json, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=2)
    return results


if __name__ == "__main__":
    main()

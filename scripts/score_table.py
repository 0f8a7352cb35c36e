"""Which patches does each difficulty score of AnatoMask choose? Short pretraining on a folder of CT, then a table.

python scripts/score_table.py DIR --picture scores.png

A network is pretrained with random masks (SparK) for every intensity range and training target, on all volumes but the
last two; on crops of those, each score ranks the hidden patches. The table has the share of air, of one tissue and of
mixed tissue among the harder half; the picture shows one crop under the scores.
"""

from __future__ import annotations

import argparse
import sys
import time

import torch
from torch import Tensor

from common.data.cases import find_cases
from common.handlers.reconstruction_pictures import tinted
from common.losses.difficulty import SCORES, patch_difficulty
from common.losses.reconstruction import patchify
from common.masking.body import body_mask
from common.masking.guided import hard_patch_mask, n_hard_patches
from common.masking.patches import upsample_patch_mask
from common.methods.anatomask import AnatoMask, AnatoMaskLoss
from common.networks.spark import SparK
from common.precision import autocast
from common.preview import save_figure
from common.recipes import cached_volume
from common.reconstruction_figure import reconstruction_figure
from common.transforms.hu_window import hu_window

PATCH = 16
CLASSES = ("air", "one tissue", "mixed tissue")
# name, level and width in HU, whether patches are normalised
SETTINGS = (
    ("-1004 to 1588 HU", (292.0, 2592.0), True),
    ("-1004 to 1588 HU", (292.0, 2592.0), False),
    ("-175 to 250 HU", (37.5, 425.0), True),
)
# upper ends in HU of lung, fat, soft tissue; the rest is bone, contrast or metal
TISSUES = (-500.0, -30.0, 150.0)
ONE_TISSUE = 0.9  # share of the patch


def load(folder: str, spacing: float, roi: int) -> list[tuple[str, Tensor]]:
    """Case id and, as channels, HU and body (2, *S) of every volume."""
    transform = cached_volume(spacing=[spacing] * 3, roi_size=[roi] * 3)
    volumes = []
    for case in find_cases(folder):
        hu = transform({"image": case.image})["image"].float()
        volumes.append((case.id, torch.cat([hu, body_mask(hu[None])[0].float()])))
    return volumes


def draw_crops(volumes: list[Tensor], n: int, roi: int, generator: torch.Generator) -> Tensor:
    """Random mirrored crops (n, 2, roi, roi, roi)."""
    crops = []
    for _ in range(n):
        volume = volumes[int(torch.randint(len(volumes), (1,), generator=generator))]
        first = [int(torch.randint(size - roi + 1, (1,), generator=generator)) for size in volume.shape[1:]]
        crop = volume[(slice(None), *(slice(f, f + roi) for f in first))]
        crops.append(crop.flip([a for a in (1, 2, 3) if torch.rand(1, generator=generator) < 0.5]))
    return torch.stack(crops)


def pretrain(
    volumes: list[Tensor], window: tuple[float, float], normalise: bool, *, steps: int, roi: int, features: list[int]
) -> AnatoMask:
    """SparK on crops of ``volumes``."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    level, width = window
    method = AnatoMask(
        SparK(features=features),
        guidance="none",
        normalise=normalise,
        z_score=((width / 2 - level - 50) / width, 503 / width),
    )
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps, pct_start=0.05)
    criterion, values = AnatoMaskLoss(), []
    for _ in range(steps):
        image = hu_window(draw_crops(volumes, 1, roi, generator)[:, :1], level, width)
        with autocast("auto", "cpu"):
            outputs = method(image.contiguous(memory_format=torch.channels_last_3d))
        loss = criterion(outputs)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(method.parameters(), 12.0)
        optimizer.step()
        schedule.step()
        values.append(loss.item())
    tenth = max(1, steps // 10)
    first, last = (sum(v) / len(v) for v in (values[:tenth], values[-tenth:]))
    sys.stdout.write(f"  loss {first:.4f} in the first tenth of the steps, {last:.4f} in the last\n")
    return method.eval()


def classes_of(crop: Tensor) -> Tensor:
    """Class of every patch of crops (B, 2, *S): 0 air, by half; 1 one tissue, to nine tenths; 2 mixed tissue."""
    hu, body = patchify(crop[:, :1], PATCH), patchify(crop[:, 1:], PATCH)
    tissue = torch.bucketize(hu, torch.tensor(TISSUES))
    shares = torch.stack([(tissue == t).float().mean(-1) for t in range(len(TISSUES) + 1)], dim=-1)
    found = torch.where(shares.amax(-1) >= ONE_TISSUE, 1, 2)
    return found.masked_fill(body.mean(-1) < 0.5, 0)


def first_sample(patches: Tensor, image: Tensor) -> Tensor:
    """Values of patches (B, n) as voxels (1, *S) of the first sample."""
    grid = [size // PATCH for size in image.shape[2:]]
    return upsample_patch_mask(patches[:1].view(1, *grid), PATCH, image.shape[2:])[0]


@torch.no_grad()
def evaluate(
    method: AnatoMask, crops: Tensor, window: tuple[float, float], n_masks: int
) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """Share of each class among all hidden patches and among each score's harder half; and pictures of one crop."""
    image = hu_window(crops[:, :1], *window)
    classes = classes_of(crops)
    counts = {name: torch.zeros(len(CLASSES)) for name in ("all", *SCORES)}
    pictures: dict[str, dict[str, Tensor]] = {}
    for m in range(n_masks):
        method.seed_masks(m)
        with autocast("auto", "cpu"):
            outputs = method(image)
        hidden = outputs["patch_mask"]
        n_masked = int(hidden[0].sum())
        counts["all"] += classes[hidden].bincount(minlength=len(CLASSES))
        for score in SCORES if method.normalise else ("denorm",):
            found = patch_difficulty(
                outputs["prediction"],
                image,
                patch_size=PATCH,
                score=score,
                normalise=method.normalise,
                z_score=method.z_score,
            )
            n_hard = n_hard_patches(hidden.shape[1], n_masked, 0.5)
            _, hard = hard_patch_mask(found, n_masked=n_masked, n_hard=n_hard, candidates=hidden)
            counts[score] += classes[hard].bincount(minlength=len(CLASSES))
            if m == 0:
                ranks = found.masked_fill(~hidden, torch.nan)
                pictures[score] = {
                    "input": image[0],
                    "masked input": torch.where(outputs["mask"][0, 0], 0.0, image[0]),
                    "reconstruction": outputs["reconstruction"][0, 0],
                    "difficulty map": first_sample(ranks, image),
                    "harder half": tinted(image[0], first_sample(hard, image)),
                }
    return {name: c / c.sum() for name, c in counts.items() if c.sum()}, pictures


def main() -> None:
    """Train, print the table, draw."""
    parser = argparse.ArgumentParser(description="Which patches each difficulty score of AnatoMask chooses.")
    parser.add_argument("folder", help="folder of CT, at least three volumes")
    parser.add_argument("--spacing", type=float, default=1.5, help="mm (default: 1.5)")
    parser.add_argument("--roi_size", type=int, default=64, help="edge of a crop, voxels (default: 64)")
    parser.add_argument("--steps", type=int, default=300, help="of each pretraining (default: 300)")
    parser.add_argument("--crops", type=int, default=16, help="of the held-out volumes (default: 16)")
    parser.add_argument("--masks", type=int, default=6, help="per crop (default: 6)")
    parser.add_argument(
        "--features", type=int, nargs=6, default=[8, 16, 32, 64, 128, 128], help="channels of the stages"
    )
    parser.add_argument("--picture", help="PNG to write")
    chosen = parser.parse_args()
    named = load(chosen.folder, chosen.spacing, chosen.roi_size)
    training, held_out = [v for _, v in named[:-2]], [v for _, v in named[-2:]]
    sys.stdout.write(f"held out: {', '.join(name for name, _ in named[-2:])}\n")
    crops = draw_crops(held_out, chosen.crops, chosen.roi_size, torch.Generator().manual_seed(1))
    lines = [f"| range | target | score | {' | '.join(CLASSES)} |", "| --- | --- | --- | --- | --- | --- |"]
    rows: list[tuple[str, dict[str, Tensor]]] = []
    for name, window, normalise in SETTINGS:
        start = time.monotonic()
        method = pretrain(
            training, window, normalise, steps=chosen.steps, roi=chosen.roi_size, features=chosen.features
        )
        shares, pictures = evaluate(method, crops, window, chosen.masks)
        sys.stdout.write(f"  {name}: {time.monotonic() - start:.0f} s\n")
        for score, share in shares.items():
            if score != "all" or not rows:
                target = "normalised" if normalise else "raw"
                cells = ("", "", "all hidden patches") if score == "all" else (name, target, score)
                lines.append("| " + " | ".join([*cells, *(f"{s:.2f}" for s in share.tolist())]) + " |")
        rows += [] if rows else list(pictures.items())
    sys.stdout.write("\n".join(lines) + "\n")
    if chosen.picture:
        save_figure(reconstruction_figure(rows), chosen.picture)


if __name__ == "__main__":
    main()

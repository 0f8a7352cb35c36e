"""A few steps of both stages of a bundle, by one process or by several that share them: run by torchrun.

``torchrun --nproc_per_node=2 tests/bundles/two_processes.py NAME OUT`` writes the losses of every step to ``OUT``. NAME
is that of a bundle, or ``baselines/dino`` for another baseline than the bundle's.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from monai.bundle import ConfigParser
from torch import Tensor

from common.distributed import destroy_process_group, init_process_group, rank, wrap_model
from tests.bundles.discovery import config, config_file
from tests.bundles.running import TINY

STEPS = 3
SHARDS = 2
BATCH = 2
BY_VIEW = (
    *("reconstruction", "target", "image", "mask", "embeddings", "regions", "images", "maps"),
    *("views", "predicted_embeddings", "teacher_embeddings", "teacher_scores", "quarters", "turn_scores"),
)
OF_NO_CASE = ("prototypes",)
# a queue that a step of both processes fills, and fewer prototypes than its cases
BASELINE = {"queue_size": 4, "n_prototypes": 6}
# one process sees one shard after the other here, and so would a batch norm (tests/networks/test_batch_norm.py)
BY_BATCH = ("dino", "swav")


def parser(name: str, stage: str) -> ConfigParser:
    """A stage's configuration at tiny sizes, with a network that always starts the same."""
    bundle, _, baseline = name.partition("/")
    content = json.loads(config_file(bundle, stage).read_text())
    if baseline:
        content.update(BASELINE, baseline=baseline)
    if baseline in BY_BATCH and stage == "pretrain":
        content["method"]["norm"] = "layer"
    sizes = {k: v for k, v in json.loads(TINY.read_text()).items() if k in content and k != "_summary_"}
    torch.manual_seed(0)
    return ConfigParser({**content, **sizes})


def images(name: str, step: int, shard: int) -> Tensor:
    channels = config(name.partition("/")[0], "metadata")["network_data_format"]["inputs"]["image"]["num_channels"]
    generator = torch.Generator().manual_seed(100 * step + shard)
    return torch.rand(BATCH, channels, 32, 32, 32, generator=generator)


def labels(classes: int, step: int, shard: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(7 + 100 * step + shard)
    # every class is in every volume, so that Dice counts the same classes in each
    label = torch.randint(0, classes, (BATCH, 1, 32, 32, 32), generator=generator)
    return {"label": label.to(torch.uint8), "annotated": torch.ones(BATCH, classes, dtype=torch.bool)}


def whole_batch(scores: list[Any]) -> Any:
    """Scores of several batches as those on one large batch: a tensor, or one per level of deep supervision."""
    if isinstance(scores[0], Tensor):
        return torch.cat(scores)
    return [torch.cat(level) for level in zip(*scores, strict=True)]


def joined(parts: list[dict[str, Any]], axis: int | None = None) -> dict[str, Any]:
    """Outputs of a method on several batches as those on one large batch."""
    if len(parts) == 1:
        return parts[0]
    whole = {}
    by_view = {*BY_VIEW, "scores"} if "views" in parts[0] else BY_VIEW  # selfMedHPM's scores are of patches
    for key, value in parts[0].items():
        # cases are counted by axis 1 of what `common.methods` lists, after the views, and by axis 0 of a method's own
        along = axis if axis is not None else int(key in by_view)
        if isinstance(value, Tensor) and value.ndim > 0 and key not in OF_NO_CASE:
            whole[key] = torch.cat([part[key] for part in parts], dim=along)
        elif isinstance(value, dict):
            whole[key] = joined([part[key] for part in parts], along)
        else:
            whole[key] = value
    return whole


def fingerprint(outputs: dict[str, Any]) -> str:
    """Of what was drawn at random: views, hidden patches, or what was replaced where nothing is hidden."""
    mask = outputs["views"] if "views" in outputs else outputs["mask"]
    if not mask.any():
        mask = outputs["regions"]["replaced"]
    return hashlib.sha256(mask.contiguous().numpy().tobytes()).hexdigest()[:8]


def average(value: Tensor) -> float:
    """Over the processes."""
    value = value.detach().clone()
    if dist.is_initialized():
        dist.all_reduce(value)
        value /= dist.get_world_size()
    return float(value)


def pretrain(name: str, shards: list[int]) -> tuple[list[float], list[str]]:
    """Losses, and fingerprints of the masks in this process."""
    parsed = parser(name, "pretrain")
    method, loss, optimizer = (parsed.get_parsed_content(key) for key in ("method", "loss", "optimizer"))
    network = wrap_model(method, "cpu") if dist.is_initialized() else method
    losses, hidden = [], []
    for step in range(STEPS):
        if hasattr(method, "set_progress"):
            method.set_progress(step / STEPS)
        parts = []
        for shard in shards:
            torch.manual_seed(10 * step + shard)
            method.seed_masks(10 * step + shard)
            parts.append(network(images(name, step, shard)))
            hidden.append(fingerprint(parts[-1]))
        value = loss(joined(parts))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        if hasattr(method, "update_teacher"):
            method.update_teacher()
        losses.append(average(value))
    return losses, hidden


def fine_tune(name: str, shards: list[int]) -> list[float]:
    """Losses of the segmentation stage."""
    parsed = parser(name, "train")
    network, loss, optimizer = (parsed.get_parsed_content(key) for key in ("network_def", "loss", "optimizer"))
    classes = len(parsed["structures"]) + 1
    wrapped = wrap_model(network, "cpu") if dist.is_initialized() else network
    losses = []
    for step in range(STEPS):
        scores, targets = [], []
        for shard in shards:
            torch.manual_seed(10 * step + shard)
            scores.append(wrapped(images(name, step, shard)))
            targets.append(labels(classes, step, shard))
        value = loss(whole_batch(scores), {key: torch.cat([t[key] for t in targets]) for key in targets[0]})
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(average(value))
    return losses


def main() -> None:
    """One of several processes: this rank's shard only."""
    name, out = sys.argv[1:]
    torch.set_num_threads(1)
    init_process_group()
    losses, hidden = pretrain(name, [rank()])
    everyones: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyones, hidden)
    tuned = fine_tune(name, [rank()])
    if rank() == 0:
        Path(out).write_text(json.dumps({"pretrain": losses, "hidden": everyones, "fine_tune": tuned}))
    destroy_process_group()


if __name__ == "__main__":
    main()

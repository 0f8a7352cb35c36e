"""Pictures of what a pretraining method sees and makes of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from monai.engines import Workflow
from torch.utils.tensorboard import SummaryWriter

from common.preview import save_figure
from common.reconstruction_figure import reconstruction_figure


class ReconstructionPictures:
    """Input, masked input, reconstruction and error of the epoch's last batch, as PNG and in TensorBoard.

    Reads the forward contract of :mod:`common.methods`: ``reconstruction``, ``target`` (V, B, C, *S), ``mask``
    (V, B, 1, *S) and ``fill``, the input in ``image`` where it is not the target, the masks in ``regions``, and what is
    in ``images`` and ``maps``; the first sample of the batch is drawn, one row per view. An input that is not the
    target and of which nothing is hidden is drawn once. Where a method reconstructs nothing, the rows are the image and
    what each of its ``views`` shows of it.

    Args:
        output_dir: receives ``reconstruction_epoch_0001.png`` and so on, and ``reconstruction.png``, the newest.
        log_dir: TensorBoard folder. ``None``: PNG only.
        interval: epochs between two pictures; the first and the last epoch are always drawn.
        view_names: row titles.
        draw: turns the method's outputs into such that can be looked at, where its target is no image.
    """

    def __init__(
        self,
        *,
        output_dir: str,
        log_dir: str | None = None,
        interval: int = 10,
        view_names: tuple[str, ...] = (),
        draw: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.log_dir = log_dir
        self.interval = max(1, interval)
        self.view_names = tuple(view_names)
        self.draw = draw

    def attach(self, engine: Workflow) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Workflow) -> None:
        """Draw, if the epoch is due."""
        epoch = engine.state.epoch
        if epoch % self.interval and epoch not in (1, engine.state.max_epochs):
            return
        outputs = engine.state.output["pred"]
        if self.draw is not None:
            outputs = self.draw(outputs)
        figure = reconstruction_figure(picture_rows(outputs, self.view_names))
        for name in (f"reconstruction_epoch_{epoch:04d}.png", "reconstruction.png"):
            save_figure(figure, self.output_dir / name)
        if self.log_dir is not None:
            with SummaryWriter(self.log_dir) as writer:
                writer.add_figure("reconstruction", figure, epoch, close=False)


def picture_rows(
    outputs: dict[str, Any], view_names: tuple[str, ...] = ()
) -> list[tuple[str, dict[str, torch.Tensor]]]:
    """Per view of the first sample: a title, and the images (C, *S) under the names that become column titles."""
    rows = []
    titles = dict(enumerate(view_names))
    if "views" in outputs:
        for v, pair in enumerate(zip(outputs["image"], outputs["views"], strict=True)):
            image, view = (x[0].detach().float().cpu() for x in pair)
            rows.append((titles.get(v, f"view {v + 1}"), {"input": image, "view": view}))
        return rows
    reconstruction, target, mask = (outputs[key] for key in ("reconstruction", "target", "mask"))
    for v in range(reconstruction.shape[0]):
        wanted, hidden, made = (x[v, 0].detach().float().cpu() for x in (target, mask, reconstruction))
        image = outputs["image"][v, 0].detach().float().cpu() if "image" in outputs else wanted
        title = titles.get(v, f"view {v + 1}")
        masked = torch.where(hidden.bool(), torch.as_tensor(outputs.get("fill", 0.0)).cpu(), image)
        images = {
            "input": image,
            **({"masked input": masked} if "image" not in outputs or hidden.any() else {}),
            **({"target": wanted} if "image" in outputs else {}),
            "reconstruction": made,
            "absolute error": (made - wanted).abs(),
        }
        for name, shown in outputs.get("images", {}).items():
            images[name] = shown[v, 0].detach().float().cpu()
        for name, region in outputs.get("regions", {}).items():
            images[name] = tinted(image, region[v, 0].cpu())
        for name, quantity in outputs.get("maps", {}).items():
            images[f"{name} map"] = quantity[v, 0].detach().float().cpu()
        rows.append((title, images))
    return rows


def tinted(image: torch.Tensor, region: torch.Tensor) -> torch.Tensor:
    """Image (C, *S) in grey with the voxels of ``region`` (1, *S) tinted: (3, *S)."""
    grey = image.mean(0, keepdim=True)
    tint = torch.tensor([1.0, 0.5, 0.0]).view(3, *[1] * (image.ndim - 1))
    return torch.where(region, 0.5 * (grey + tint), grey)

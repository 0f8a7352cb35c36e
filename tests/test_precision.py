"""Precision and memory format of the network."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from common.inferers import AutocastInferer, WindowInferer
from common.precision import choose_precision


class Probe(nn.Module):
    """Remembers what it was given and in which precision it computed."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.channels_last = x.is_contiguous(memory_format=torch.channels_last_3d) and not x.is_contiguous()
        out = self.conv(x)
        self.dtype = out.dtype
        return out


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_network_computes_in_the_chosen_precision(precision: str, dtype: torch.dtype) -> None:
    probe = Probe()
    AutocastInferer(precision=precision)(torch.rand(1, 1, 4, 4, 4), probe)
    assert probe.dtype is dtype


def test_channels_last_reaches_the_network() -> None:
    probe = Probe()
    image = torch.rand(1, 3, 4, 4, 4)
    probe.conv = nn.Conv3d(3, 2, 1)
    AutocastInferer(precision="fp32", channels_last=True)(image, probe)
    assert probe.channels_last


def test_auto_on_a_cpu_is_never_fp16() -> None:
    assert choose_precision("auto", "cpu") in {"bf16", "fp32"}


@pytest.mark.parametrize(("precision", "device"), [("fp16", "cpu"), ("half", "cpu")])
def test_impossible_precisions_are_refused(precision: str, device: str) -> None:
    with pytest.raises(ValueError, match="choose"):
        choose_precision(precision, device)


def test_windows_give_float32_scores_of_the_whole_volume() -> None:
    """A copying network gives its input back, whatever the overlap; smaller volumes are padded."""
    inferer = WindowInferer(roi_size=[8, 8, 8], overlap=0.5, precision="fp32")
    for shape in ((11, 9, 17), (5, 8, 6)):
        image = torch.rand(1, 1, *shape)
        scores = inferer(image, torch.clone)
        assert scores.dtype is torch.float32
        torch.testing.assert_close(scores, image)


def test_slices_for_a_2d_network() -> None:
    image = torch.rand(1, 1, 10, 12, 5)
    scores = WindowInferer(roi_size=[8, 8, 1], spatial_dims=2, precision="fp32")(image, torch.clone)
    torch.testing.assert_close(scores, image)


def test_2d_window_must_be_a_slice() -> None:
    with pytest.raises(ValueError, match="end with 1"):
        WindowInferer(roi_size=[8, 8, 8], spatial_dims=2)


def test_mirrored_windows_are_averaged() -> None:
    """A network that looks at what lies behind or below; its mirror images look at the other sides."""

    def behind_and_below(x: torch.Tensor) -> torch.Tensor:
        return x.roll(1, 3) + 10 * x.roll(1, 4)

    image = torch.rand(1, 1, 8, 8, 8)
    scores = WindowInferer(roi_size=[8, 8, 8], precision="fp32", flip_axes=[1, 2])(image, behind_and_below)
    sides = [image.roll(1, 3), image.roll(-1, 3), 10 * image.roll(1, 4), 10 * image.roll(-1, 4)]
    torch.testing.assert_close(scores, torch.stack(sides).sum(0) / 2)


@pytest.mark.parametrize(("axes", "spatial_dims"), [([0], 3), ([1, 1], 3), ([2], 2)])
def test_left_and_right_are_never_mirrored(axes: list[int], spatial_dims: int) -> None:
    with pytest.raises(ValueError, match="left and right"):
        WindowInferer(roi_size=[8, 8, 1], spatial_dims=spatial_dims, flip_axes=axes)

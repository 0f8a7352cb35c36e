"""Sliding windows in a moving slab: MONAI's result in less memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SliceInferer, sliding_window_inference

from common.windows import SlabWindows
from tests.largest import Peak

WINDOW = (8, 6, 10)


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    """Sees the border of its window, so that every window differs from its neighbours where they overlap."""
    torch.manual_seed(0)
    return torch.nn.Conv3d(2, 5, 3, padding=1).requires_grad_(False)


# the longest axis is each of the three; smaller than the window along none, one and all; one and two volumes
@pytest.mark.parametrize("shape", [(1, 2, 21, 7, 11), (2, 2, 9, 23, 8), (1, 2, 8, 9, 31), (1, 2, 5, 3, 9)])
@pytest.mark.parametrize(("overlap", "sw_batch_size"), [(0.0, 1), (0.25, 2), (0.5, 3), (0.8, 4)])
def test_scores_are_those_of_monai(
    network: torch.nn.Module, shape: tuple[int, ...], overlap: float, sw_batch_size: int
) -> None:
    image = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    expected = sliding_window_inference(image, WINDOW, sw_batch_size, network, overlap, mode="gaussian")
    options: dict[str, Any] = {"roi_size": WINDOW, "overlap": overlap, "sw_batch_size": sw_batch_size}
    torch.testing.assert_close(SlabWindows(**options)(image, network), expected)
    chosen = SlabWindows(**options, argmax=True)(image, network)
    assert chosen.dtype is torch.uint8
    assert chosen.shape == (shape[0], 1, *shape[2:])
    assert torch.equal(chosen[:, 0].long(), expected.argmax(1))


def test_slices_are_those_of_monai() -> None:
    torch.manual_seed(0)
    network = torch.nn.Conv2d(2, 3, 3, padding=1).requires_grad_(False)
    image = torch.rand(1, 2, 11, 9, 5)
    expected = SliceInferer(roi_size=(8, 8), spatial_dim=2, sw_batch_size=3, overlap=0.5, mode="gaussian")(
        image, network
    )
    windows = SlabWindows(roi_size=(8, 8, 1), sw_batch_size=3, slices=True)
    torch.testing.assert_close(windows(image, network), expected)


def test_half_precision_is_close(network: torch.nn.Module) -> None:
    image = torch.rand(1, 2, 16, 12, 20)
    exact, half = (SlabWindows(roi_size=WINDOW, half=half)(image, network) for half in (False, True))
    assert half.dtype is torch.float32
    assert not torch.equal(half, exact)
    torch.testing.assert_close(half, exact, atol=3e-3, rtol=0)


def test_metadata_stays(network: torch.nn.Module) -> None:
    affine = torch.diag(torch.tensor([2.0, 2.0, 3.0, 1.0], dtype=torch.float64))
    image = MetaTensor(torch.rand(1, 2, 12, 12, 12), affine=affine, meta={"filename_or_obj": "a.nii.gz"})
    for argmax in (False, True):
        result = SlabWindows(roi_size=WINDOW, argmax=argmax)(image, network)
        assert torch.equal(result.affine, affine)
        assert result.meta["filename_or_obj"] == "a.nii.gz"


@pytest.mark.parametrize(("argmax", "result"), [(True, 1), (False, 5 * 4)])
def test_no_more_than_a_layer_of_windows_is_summed(network: torch.nn.Module, argmax: bool, result: int) -> None:
    """A longer volume takes more memory for itself and for the result (bytes per voxel), and for nothing else."""

    def needed(planes: int) -> int:
        with Peak() as peak:
            SlabWindows(roi_size=(8, 6, 10), argmax=argmax)(torch.rand(1, 2, 8, 9, planes), network)
        return peak.bytes

    assert needed(120) - needed(60) == 60 * 8 * 9 * (2 * 4 + result)


def test_what_does_not_fit_is_named(network: torch.nn.Module) -> None:
    with pytest.raises(ValueError, match=r"overlap is 1\.0; choose"):
        SlabWindows(roi_size=WINDOW, overlap=1.0)
    with pytest.raises(ValueError, match="expected a score per voxel"):
        SlabWindows(roi_size=WINDOW)(torch.rand(1, 2, 8, 8, 10), torch.nn.Sequential(network, torch.nn.MaxPool3d(2)))

"""k-means of patches."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.rows import Case, row
from common.masking.lesion import cluster_patches
from common.masking.patches import patchify


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

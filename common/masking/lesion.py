"""Patches that k-means calls foreground, masked first (AMLP, arXiv 2309.04312, section 3.1). ``True`` = hidden.

All distances that Lloyd's iterations need are sums of entries of one Gram matrix per sample, so the patches are read
once, iterations and further starts cost next to nothing, and nothing leaves the device.

"The smaller cluster is the lesion" is a guess of the method. In a crop that holds the patient and the air around, the
two clusters are those two: give ``eligible``, or look at pictures of ``foreground``.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

ORDERS = ("lesion_first", "background_first", "random")
# Patches that differ by less than this share of their root mean square are all the same to k-means.
_FLAT = 3e-3
# A quarter faster than the whole Gram matrix at once; more stripes are too thin for fast products.
_STRIPES = 3
# Starts beside the three that look at the image; ten in all.
_DIRECTIONS = 7
_GOLDEN = (1 + math.sqrt(5)) / 2


class PatchClusters(NamedTuple):
    """What :func:`cluster_patches` finds in n patches of D values each."""

    foreground: Tensor  # bool (B, n): the smallest cluster
    score: Tensor  # float32 (B, n): (|v - c_bg|^2 - |v - c_fg|^2) / (D variance): above 0 in the foreground
    centroids: Tensor  # float32 (B, K, D), the foreground's first
    inertia: Tensor  # float32 (B,): summed squared distances to the nearest centroid
    eligible: Tensor  # bool (B, n): patches that took part
    split: Tensor  # bool (B,): False where all patches are alike and there is nothing to cluster


@torch.no_grad()
def cluster_patches(
    patches: Tensor, *, n_clusters: int = 2, iterations: int = 10, eligible: Tensor | None = None
) -> PatchClusters:
    """k-means (Lloyd, Euclidean) on the patches of each sample.

    Ten deterministic starts run side by side, and the one with the least inertia is kept: patches from darkest to
    brightest, along the first principal component, along seven other directions, and as far from each other as
    possible. A cluster that runs empty restarts at the patch farthest from its centroid.

    Args:
        patches: (B, n, D), see :func:`common.losses.reconstruction.patchify`.
        n_clusters: K, 2 in the paper. With more, the foreground is still the smallest.
        iterations: of Lloyd's algorithm.
        eligible: bool (B, n), the patches that take part; ``None`` is all. The others are background.

    Returns:
        see :class:`PatchClusters`. With equally small clusters, the brighter one is the foreground.

    Raises:
        ValueError: for arguments out of range.
    """
    batch, n, length = patches.shape
    if not 2 <= n_clusters <= n:
        raise ValueError(f"n_clusters: got {n_clusters}. Give at least 2 and at most the {n} patches of an image.")
    if iterations < 1:
        raise ValueError(f"iterations: got {iterations}. Give at least 1.")
    if eligible is None:
        eligible = torch.ones(batch, n, dtype=torch.bool, device=patches.device)
    with torch.autocast(device_type=patches.device.type, enabled=False):
        x, weight = patches.detach().float(), eligible.float()
        count = weight.sum(1).clamp(min=1)
        brightness = x.mean(-1)
        # distances are differences of large numbers: taking the mean patch off first keeps them exact, TF32 or not
        mean = torch.bmm((weight / count[:, None])[:, None], x)
        x = x - mean
        gram = _gram(x)
        square = gram.diagonal(dim1=1, dim2=2)
        variance = (square * weight).sum(1) / (count * length)
        power = variance + mean.square().mean((1, 2))
        split = (variance > _FLAT**2 * power) & (eligible.sum(1) >= n_clusters)

        labels = _starts(gram, square, brightness, eligible, n_clusters)
        distances = _to_centroids(gram, square, labels, weight, n_clusters)
        for _ in range(iterations - 1):
            distances = _to_centroids(gram, square, _nearest(distances, weight), weight, n_clusters)
        inertia = (distances.amin(-1) * weight[:, None]).sum(-1)  # (B, R)
        best = inertia.argmin(1)
        chosen = torch.arange(batch, device=x.device)
        distances = distances[chosen, best]  # (B, n, K)

        labels = distances.argmin(-1)
        order = _smallest_first(labels, brightness, weight, n_clusters)
        distances = distances.gather(2, order[:, None].expand(-1, n, -1))
        labels = distances.argmin(-1)
        members = _members(labels, weight, n_clusters)
        centroids = torch.bmm(members.mT, x) / members.sum(1).clamp(min=1)[..., None] + mean
        score = (distances[..., 1:].amin(-1) - distances[..., 0]) / (length * variance).clamp(min=1e-12)[:, None]
        score = torch.where(split[:, None], score, 0.0)
        foreground = (labels == 0) & eligible & split[:, None]
    return PatchClusters(foreground, score, centroids, inertia[chosen, best], eligible, split)


def _gram(x: Tensor) -> Tensor:
    """Products (B, n, n) of all pairs of rows of (B, n, D); below the diagonal they are copied, not computed again."""
    n = x.shape[1]
    gram = x.new_empty(x.shape[0], n, n)
    step = math.ceil(n / _STRIPES)
    for start in range(0, n, step):
        stop = min(start + step, n)
        stripe = torch.bmm(x[:, start:stop], x[:, start:].mT)
        gram[:, start:stop, start:] = stripe
        gram[:, start:, start:stop] = stripe.mT
    return gram


def _starts(gram: Tensor, square: Tensor, brightness: Tensor, eligible: Tensor, n_clusters: int) -> Tensor:
    """Cluster of each patch in each start, (B, R, n)."""
    n, weight = square.shape[1], eligible.float()
    far = (square * weight).argmax(1, keepdim=True)
    apart = [far]
    nearest = _from_patch(gram, square, far)
    for _ in range(n_clusters - 1):
        apart.append((nearest * weight).argmax(1, keepdim=True))
        nearest = torch.minimum(nearest, _from_patch(gram, square, apart[-1]))
    # power iteration: projections onto the first principal component
    component = gram.gather(1, far[..., None].expand(-1, -1, n)).mT
    for _ in range(8):
        component = torch.bmm(gram, F.normalize(component * weight[..., None], dim=1))
    # projections onto further directions in the space of the patches, the same ones every time
    place, direction = (torch.arange(1, m + 1, device=gram.device) for m in (n, _DIRECTIONS))
    mixture = torch.sin(_GOLDEN * 13 * torch.outer(place, direction))
    further = torch.bmm(gram, mixture * weight[..., None])
    along = torch.cat([brightness[:, None], component.mT, further.mT], dim=1)
    seeds = torch.cat([_evenly_along(along, eligible, n_clusters), torch.cat(apart, dim=1)[:, None]], 1)
    rows = gram.gather(1, seeds.flatten(1)[..., None].expand(-1, -1, n)).view(*seeds.shape, n)
    own = square.gather(1, seeds.flatten(1)).view(*seeds.shape, 1)
    return (own - 2 * rows).argmin(2)


def _evenly_along(values: Tensor, eligible: Tensor, n_clusters: int) -> Tensor:
    """Patches (B, R, K) at even steps of the order of ``values`` (B, R, n), both ends included."""
    ranked = values.masked_fill(~eligible[:, None], torch.inf).argsort(-1)
    steps = torch.linspace(0, 1, n_clusters, device=values.device)
    place = ((eligible.sum(1, keepdim=True) - 1).clamp(min=0) * steps).round().long()
    return ranked.gather(2, place[:, None].expand(-1, values.shape[1], -1))


def _from_patch(gram: Tensor, square: Tensor, patch: Tensor) -> Tensor:
    """Squared distances (B, n) from one patch (B, 1)."""
    row = gram.gather(1, patch[..., None].expand(-1, -1, gram.shape[1])).squeeze(1)
    return square + square.gather(1, patch) - 2 * row


def _to_centroids(gram: Tensor, square: Tensor, labels: Tensor, weight: Tensor, n_clusters: int) -> Tensor:
    """Squared distances (B, R, n, K) to the centroids of ``labels`` (B, R, n), infinite where those are empty."""
    batch, starts, n = labels.shape
    members = _members(labels, weight[:, None], n_clusters)
    size = members.sum(2, keepdim=True)
    share = members / size.clamp(min=1)
    to_members = torch.bmm(gram, share.permute(0, 2, 1, 3).reshape(batch, n, -1))
    to_members = to_members.view(batch, n, starts, n_clusters).permute(0, 2, 1, 3)
    within = (share * to_members).sum(2, keepdim=True)
    distances = (square[:, None, :, None] - 2 * to_members + within).clamp(min=0)
    return distances.masked_fill(size == 0, torch.inf)


def _members(labels: Tensor, weight: Tensor, n_clusters: int) -> Tensor:
    """Weight (..., n, K) of each patch in each cluster."""
    return (labels[..., None] == torch.arange(n_clusters, device=labels.device)) * weight[..., None]


def _nearest(distances: Tensor, weight: Tensor) -> Tensor:
    """Nearest centroid (B, R, n); a centroid without patches gets the one that fits its own worst."""
    least, labels = distances.min(-1)
    empty = distances.isinf()[:, :, 0]
    worst = (least * weight[:, None]).argmax(-1, keepdim=True)
    restart = torch.where(empty.any(-1, keepdim=True), empty.float().argmax(-1, keepdim=True), labels.gather(2, worst))
    return labels.scatter(2, worst, restart)


def _smallest_first(labels: Tensor, brightness: Tensor, weight: Tensor, n_clusters: int) -> Tensor:
    """Order (B, K) of the clusters of ``labels`` (B, n): fewest patches first, then brightest, empty ones last."""
    members = _members(labels, weight, n_clusters)
    size = members.sum(1)
    light = (members * brightness[..., None]).sum(1) / size.clamp(min=1)
    size = size.masked_fill(size == 0, torch.inf)
    bright_first = light.argsort(dim=1, descending=True, stable=True)
    return bright_first.gather(1, size.gather(1, bright_first).argsort(dim=1, stable=True))


def n_lesion_patches(n: int, mask_ratio: float) -> int:
    """Number of hidden patches, ``floor(n * mask_ratio)`` (Algorithm 1), but at least one hidden and one visible.

    >>> n_lesion_patches(256, 0.25)
    64
    """
    if not 0 < mask_ratio < 1:
        raise ValueError(f"mask_ratio: got {mask_ratio}. Give the hidden share, above 0 and below 1.")
    return min(max(math.floor(n * mask_ratio + 1e-9), 1), n - 1)


@torch.no_grad()
def lesion_mask(
    clusters: PatchClusters,
    *,
    n_masked: int,
    order: str = "lesion_first",
    order_noise: float = 0.0,
    temperature: float = 0.1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Hide ``n_masked`` patches of each sample in the wanted order.

    The text sorts by the distance to the foreground's centroid "from large to small", which would put the farthest
    first; sorted here is the logit of being foreground, ``PatchClusters.score`` (METHODS 4.3).

    Args:
        clusters: from :func:`cluster_patches`.
        n_masked: see :func:`n_lesion_patches`.
        order: ``"lesion_first"`` (section 3.1 of the paper), ``"background_first"``, or ``"random"`` over all patches.
            In the first two, patches that are not eligible come last, and patches with equal scores (all, where
            nothing could be split) in random order.
        order_noise: scale of Gumbel noise on the log-probability of being foreground; 0 sorts by the score, which
            hides the same patches of an image every time.
        temperature: t of that probability, ``sigmoid(score / t)``; no matter without noise.
        generator: random stream on the device of the clusters.

    Returns:
        bool (B, n), exactly ``n_masked`` are ``True`` in each sample.

    Raises:
        ValueError: for arguments out of range.
    """
    if order not in ORDERS:
        raise ValueError(f"order: got {order!r}. Allowed are {', '.join(map(repr, ORDERS))}.")
    score = clusters.score
    batch, n = score.shape
    if not 0 < n_masked < n:
        raise ValueError(f"n_masked: got {n_masked} of {n} patches. Hide at least one and leave at least one.")
    if order_noise < 0 or temperature <= 0:
        raise ValueError(
            f"order_noise, temperature: got {order_noise}, {temperature}. Give at least 0, and a number above 0."
        )
    # drawn in any case, so that the stream does not depend on the options
    shuffled = torch.rand(batch, n, generator=generator, device=score.device).argsort(1)
    key = score
    if order == "background_first":
        key = -key
    if order_noise:
        uniform = torch.rand(batch, n, generator=generator, device=score.device).clamp(min=1e-20)
        key = F.logsigmoid(key / temperature) - order_noise * (-uniform.log()).log()
    key = torch.zeros_like(key) if order == "random" else key.masked_fill(~clusters.eligible, -torch.inf)
    first = key.gather(1, shuffled).argsort(dim=1, descending=True, stable=True)[:, :n_masked]
    return torch.zeros_like(clusters.foreground).scatter_(1, shuffled.gather(1, first), True)


def eligible_patches(body: Tensor, patch_size: tuple[int, ...], *, min_share: float = 0.5) -> Tensor:
    """Patches of which at least ``min_share`` lies in the body: bool (B, n), in the order of the grid.

    Args:
        body: bool (B, 1, *S), see :func:`common.masking.body.body_mask`.
        patch_size: edge per axis in voxels; must divide S.
        min_share: in (0, 1].
    """
    pool = F.avg_pool3d if body.ndim == 5 else F.avg_pool2d
    return (pool(body.float(), patch_size, patch_size) >= min_share).flatten(1)

"""k-means patch selection (METHODS 4.3, 4.11)."""

from __future__ import annotations

import pytest
import torch

from common.masking.lesion import cluster_patches, eligible_patches, lesion_mask, n_lesion_patches
from common.masking.patches import patchify


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def two_levels(batch: int = 2, n: int = 64, bright: int = 16, length: int = 27) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy dark patches with some bright ones at random places, and where those are."""
    places = torch.rand(batch, n, generator=generator(5)).argsort(1)[:, :bright]
    is_bright = torch.zeros(batch, n, dtype=torch.bool).scatter_(1, places, True)
    patches = 0.2 + 0.05 * torch.rand(batch, n, length, generator=generator(6))
    return patches + 0.6 * is_bright[..., None], is_bright


def lloyd(patches: torch.Tensor, starts: int, n_clusters: int = 2) -> torch.Tensor:
    """Least inertia of one sample (n, D) over ``starts`` random starts, in float64."""
    x = patches.double()
    least = torch.tensor(torch.inf, dtype=torch.float64)
    for start in range(starts):
        centroids = x[torch.randperm(len(x), generator=generator(start))[:n_clusters]]
        for _ in range(50):
            labels = torch.cdist(x, centroids).argmin(1)
            centroids = torch.stack(
                [x[labels == k].mean(0) if (labels == k).any() else centroids[k] for k in range(n_clusters)]
            )
        least = torch.minimum(least, torch.cdist(x, centroids).square().amin(1).sum())
    return least


@pytest.mark.parametrize(("n", "ratio", "masked"), [(256, 0.25, 64), (256, 0.422, 108), (100, 0.29, 29), (8, 0.01, 1)])
def test_counts_are_floored_and_never_empty(n, ratio, masked):
    assert n_lesion_patches(n, ratio) == masked
    assert n_lesion_patches(n, 0.9999) == n - 1


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.1])
def test_a_ratio_that_hides_nothing_or_all_is_refused(ratio):
    with pytest.raises(ValueError, match="mask_ratio"):
        n_lesion_patches(100, ratio)


def test_the_bright_minority_is_the_foreground_and_is_hidden_first():
    patches, bright = two_levels()
    clusters = cluster_patches(patches)
    assert torch.equal(clusters.foreground, bright)
    assert torch.equal(clusters.score > 0, bright)
    assert torch.equal(lesion_mask(clusters, n_masked=16, generator=generator()), bright)
    fewer = lesion_mask(clusters, n_masked=9, generator=generator())
    assert (fewer.sum(1) == 9).all()
    assert not (fewer & ~bright).any()
    more = lesion_mask(clusters, n_masked=40, generator=generator())
    assert (more.sum(1) == 40).all()
    assert (more & bright).sum() == bright.sum()


def test_a_dark_minority_is_foreground_too():
    patches, bright = two_levels()
    assert torch.equal(cluster_patches(1 - patches).foreground, bright)


def test_of_equally_many_the_brighter_are_foreground():
    patches, bright = two_levels(n=32, bright=16)
    assert torch.equal(cluster_patches(patches).foreground, bright)
    assert torch.equal(cluster_patches(1 - patches).foreground, ~bright)


def test_background_first_hides_the_foreground_last():
    patches, bright = two_levels()
    clusters = cluster_patches(patches)
    mask = lesion_mask(clusters, n_masked=50, order="background_first", generator=generator())
    assert (mask.sum(1) == 50).all()
    assert ((mask & bright).sum(1) == 2).all()


def test_random_order_is_random():
    patches, bright = two_levels(batch=200)
    clusters = cluster_patches(patches)
    mask = lesion_mask(clusters, n_masked=32, order="random", generator=generator())
    assert (mask.sum(1) == 32).all()
    assert (mask[bright].float().mean() - 0.5).abs() < 0.05
    assert not torch.equal(mask, lesion_mask(clusters, n_masked=32, order="random", generator=generator(1)))


def test_score_is_the_difference_of_squared_distances_to_the_centroids():
    patches, _ = two_levels()
    clusters = cluster_patches(patches)
    to_foreground, to_background = ((patches[:, :, None] - clusters.centroids[:, None]) ** 2).sum(-1).unbind(-1)
    variance = (patches - patches.mean(1, keepdim=True)).square().mean((1, 2))
    expected = (to_background - to_foreground) / (patches.shape[-1] * variance[:, None])
    torch.testing.assert_close(clusters.score, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(clusters.inertia, torch.minimum(to_foreground, to_background).sum(1), rtol=1e-3, atol=0)
    members = clusters.foreground.float()
    means = torch.bmm(members[:, None], patches) / members.sum(1)[:, None, None]
    torch.testing.assert_close(clusters.centroids[:, :1], means)


@pytest.mark.parametrize("n_clusters", [2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_as_tight_as_lloyd_with_ten_starts(n_clusters, seed):
    """Also where there are no clear clusters."""
    smooth = torch.rand(4, 80, 4, generator=generator(seed)) @ torch.randn(4, 4, 27, generator=generator(seed + 9))
    patches = smooth + 0.3 * torch.randn(4, 80, 27, generator=generator(seed + 20))
    inertia = cluster_patches(patches, n_clusters=n_clusters, iterations=30).inertia
    least = torch.stack([lloyd(sample, 10, n_clusters) for sample in patches])
    assert (inertia <= least * 1.02).all()
    assert inertia.mean() <= least.mean() * 1.005


def test_permuted_patches_permute_the_labels():
    patches, _ = two_levels()
    order = torch.randperm(patches.shape[1], generator=generator(3))
    before, after = cluster_patches(patches), cluster_patches(patches[:, order])
    assert torch.equal(after.foreground, before.foreground[:, order])
    torch.testing.assert_close(after.score, before.score[:, order])


@pytest.mark.parametrize("value", [0.0, 0.7])
def test_a_constant_image_is_hidden_at_random_without_nan(value):
    clusters = cluster_patches(torch.full((400, 20, 8), value))
    assert not clusters.split.any()
    assert not clusters.foreground.any()
    assert clusters.centroids.isfinite().all()
    mask = lesion_mask(clusters, n_masked=5, generator=generator())
    assert (mask.sum(1) == 5).all()
    assert ((mask.float().mean(0) - 0.25).abs() < 0.1).all()


def test_one_constant_sample_leaves_the_others_alone():
    patches, bright = two_levels()
    patches[0] = 0.3
    clusters = cluster_patches(patches)
    assert clusters.split.tolist() == [False, True]
    assert torch.equal(clusters.foreground[1], bright[1])


def test_a_cluster_that_runs_empty_restarts():
    """Three clusters of two levels: the third one has to take from the others."""
    patches = torch.zeros(1, 12, 4)
    patches[:, 8:] = 1.0
    patches[:, 11] = 1.2
    clusters = cluster_patches(patches, n_clusters=3)
    assert clusters.foreground[0].nonzero().flatten().tolist() == [11]
    assert clusters.inertia.item() == pytest.approx(0, abs=1e-5)


def test_three_clusters_single_out_the_rarest():
    patches = 0.02 * torch.rand(1, 60, 8, generator=generator())
    patches[:, 20:55] += 0.9  # tissue
    patches[:, 55:] += 0.45  # in between
    clusters = cluster_patches(patches, n_clusters=3)
    assert clusters.foreground[0].nonzero().flatten().tolist() == [55, 56, 57, 58, 59]
    assert clusters.centroids.shape == (1, 3, 8)


def test_outside_the_body_nothing_is_foreground_and_is_hidden_last():
    patches, bright = two_levels()
    patches[:, 40:] = -2.0  # air
    eligible = torch.arange(64).expand(2, -1) < 40
    clusters = cluster_patches(patches, eligible=eligible)
    assert torch.equal(clusters.foreground, bright & eligible)
    assert not torch.equal(cluster_patches(patches).foreground, bright & eligible)
    for order in ("lesion_first", "background_first"):
        mask = lesion_mask(clusters, n_masked=40, order=order, generator=generator())
        assert torch.equal(mask, eligible)
        mask = lesion_mask(clusters, n_masked=50, order=order, generator=generator())
        assert (mask & eligible).sum() == 80
        assert (mask.sum(1) == 50).all()


def test_no_eligible_patch_at_all():
    patches, _ = two_levels()
    clusters = cluster_patches(patches, eligible=torch.zeros(2, 64, dtype=torch.bool))
    assert not clusters.foreground.any()
    assert clusters.score.isfinite().all()
    assert (lesion_mask(clusters, n_masked=10, generator=generator()).sum(1) == 10).all()


def test_noise_changes_which_patches_are_hidden_and_its_absence_does_not():
    patches, _ = two_levels()
    clusters = cluster_patches(patches)
    literal = [lesion_mask(clusters, n_masked=8, generator=generator(s)) for s in range(2)]
    assert torch.equal(*literal)
    noisy = [lesion_mask(clusters, n_masked=8, order_noise=1.0, generator=generator(s)) for s in range(2)]
    assert not torch.equal(*noisy)
    assert all((mask.sum(1) == 8).all() for mask in noisy)
    # far from the foreground still means rarely hidden
    assert not (noisy[0] & ~clusters.foreground).any()


def test_half_precision_input_does_not_overflow():
    patches, bright = two_levels(length=4096)
    clusters = cluster_patches((patches * 100).half())
    assert torch.equal(clusters.foreground, bright)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        same = cluster_patches((patches * 100).half())
    torch.testing.assert_close(same.inertia, clusters.inertia)


@pytest.mark.parametrize("shape", [(8, 12), (8, 4, 12)])
def test_eligible_patches_lie_in_the_body_by_half(shape):
    body = torch.zeros(1, 1, *shape, dtype=torch.bool)
    body[..., :6] = True  # one patch of four and half of the next one
    eligible = eligible_patches(body, (4,) * len(shape))
    assert torch.equal(eligible, patchify(body.float(), 4).mean(-1) >= 0.5)
    assert eligible.view(-1, 3).all(0).tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"n_clusters": 1}, "n_clusters"), ({"n_clusters": 65}, "n_clusters"), ({"iterations": 0}, "iterations")],
)
def test_clustering_refuses_what_makes_no_sense(arguments, message):
    with pytest.raises(ValueError, match=message):
        cluster_patches(two_levels()[0], **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"order": "hard"}, "order"),
        ({"n_masked": 64}, "n_masked"),
        ({"n_masked": 0}, "n_masked"),
        ({"order_noise": -1}, "order_noise"),
        ({"temperature": 0}, "temperature"),
    ],
)
def test_masking_refuses_what_makes_no_sense(arguments, message):
    clusters = cluster_patches(two_levels()[0])
    with pytest.raises(ValueError, match=message):
        lesion_mask(clusters, **{"n_masked": 4, **arguments})

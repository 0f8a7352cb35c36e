from __future__ import annotations

import pytest
import torch

from common.masking.guided import hard_patch_mask


def scores(batch: int = 3, n: int = 20) -> torch.Tensor:
    return torch.rand(batch, n, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("n_hard", [0, 1, 5, 12])
def test_exact_counts_and_the_highest_scores(n_hard: int) -> None:
    s = scores()
    hidden, hard = hard_patch_mask(s, n_masked=12, n_hard=n_hard, generator=torch.Generator().manual_seed(1))
    assert hidden.sum(1).tolist() == [12] * 3
    assert hard.sum(1).tolist() == [n_hard] * 3
    assert not (hard & ~hidden).any()
    for row, chosen in zip(s, hard, strict=True):
        assert set(chosen.nonzero().flatten().tolist()) == set(row.argsort(descending=True)[:n_hard].tolist())


def test_anatomask_counts_of_the_papers_crop() -> None:
    """112 x 112 x 128 in patches of 16: 392, of which 235 are hidden; half of them by score."""
    _, hard = hard_patch_mask(scores(2, 392), n_masked=235, n_hard=117)
    assert hard.sum(1).tolist() == [117, 117]


def test_without_hard_patches_scores_do_not_matter() -> None:
    first, _ = hard_patch_mask(scores(), n_masked=8, n_hard=0, generator=torch.Generator().manual_seed(2))
    second, _ = hard_patch_mask(-scores(), n_masked=8, n_hard=0, generator=torch.Generator().manual_seed(2))
    assert torch.equal(first, second)


def test_only_candidates_are_hard_but_any_patch_may_fill_up() -> None:
    candidates = torch.zeros(200, 20, dtype=torch.bool)
    candidates[:, :10] = True
    hidden, hard = hard_patch_mask(
        torch.arange(20.0).expand(200, 20),
        n_masked=12,
        n_hard=4,
        candidates=candidates,
        generator=torch.Generator().manual_seed(3),
    )
    assert torch.equal(hard, torch.isin(torch.arange(20), torch.arange(6, 10)).expand(200, 20))
    share = hidden[:, [0, 5, 10, 19]].float().mean(0)
    assert torch.allclose(share, torch.full((4,), 0.5), atol=0.12)  # 8 of the 16 others


def test_too_few_candidates_are_filled_up_at_random() -> None:
    candidates = torch.zeros(1, 20, dtype=torch.bool)
    candidates[:, :3] = True
    hidden, hard = hard_patch_mask(scores(1), n_masked=10, n_hard=6, candidates=candidates)
    assert hard.sum() == 3
    assert hidden.sum() == 10


def test_seeded() -> None:
    masks = [
        hard_patch_mask(scores(), n_masked=8, n_hard=3, generator=torch.Generator().manual_seed(s))[0]
        for s in (0, 0, 1)
    ]
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


@pytest.mark.parametrize(("n_masked", "n_hard"), [(0, 0), (20, 1), (8, 9), (8, -1)])
def test_numbers_out_of_range(n_masked: int, n_hard: int) -> None:
    with pytest.raises(ValueError, match="n_masked, n_hard"):
        hard_patch_mask(scores(), n_masked=n_masked, n_hard=n_hard)

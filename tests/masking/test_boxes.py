"""Boxes as masks: where they lie, how large they are, and what is cut off."""

from __future__ import annotations

import pytest
import torch

from common.masking.boxes import boxes_mask, random_boxes


@pytest.mark.parametrize("shape", [(6, 5, 4), (6, 5)])
def test_a_mask_is_the_union_of_its_boxes(shape: tuple[int, ...]) -> None:
    d = len(shape)
    starts = torch.tensor([[[1, 0, 2], [4, 3, 0]], [[0, 0, 0], [5, 4, 3]]])[..., :d]
    edges = torch.tensor([[[2, 3, 1], [9, 1, 4]], [[0, 2, 2], [1, 1, 1]]])[..., :d]
    expected = torch.zeros(2, 1, *shape, dtype=torch.bool)
    for b in range(2):
        for n in range(2):
            box = tuple(slice(int(s), int(s + e)) for s, e in zip(starts[b, n], edges[b, n], strict=True))
            expected[(b, 0, *box)] = True
    assert torch.equal(boxes_mask(starts, edges, shape), expected)
    counted = torch.tensor([[True, False], [False, False]])
    one = boxes_mask(starts, edges, shape, counted=counted)
    assert not one[1].any()
    assert one[0].sum() == edges[0, 0].prod()


def test_boxes_have_every_edge_between_two_and_keep_off_the_border() -> None:
    draw = {"shortest": (2, 1), "longest": (4, 3), "generator": torch.Generator().manual_seed(0)}
    starts, edges = random_boxes(3, 500, (20, 12), margin=3, **draw)
    assert starts.shape == edges.shape == (3, 500, 2)
    for axis, (size, lengths) in enumerate(((20, {2, 3, 4}), (12, {1, 2, 3}))):
        assert set(edges[..., axis].unique().tolist()) == lengths
        assert starts[..., axis].min() == 3
        assert (starts + edges)[..., axis].max() == size - 3
    tight, wide = random_boxes(1, 50, (4, 4), margin=3, **draw)
    assert ((tight >= 0) & (tight + wide <= 4)).all()  # no room for a margin

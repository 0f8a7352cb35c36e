"""Masks have a random stream of their own, which can be saved and continued."""

from __future__ import annotations

import copy
import io

import torch

from common.masking.generator import MaskGenerator


def draw(generator: MaskGenerator) -> torch.Tensor:
    return torch.rand(5, generator=generator.on("cpu"))


def test_same_seed_draws_the_same_and_another_does_not():
    assert torch.equal(draw(MaskGenerator(3)), draw(MaskGenerator(3)))
    assert not torch.equal(draw(MaskGenerator(3)), draw(MaskGenerator(4)))


def test_the_global_stream_neither_changes_masks_nor_is_changed():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    first = draw(MaskGenerator(7))
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(draw(MaskGenerator(7)), first)


def test_seed_starts_anew():
    generator = MaskGenerator(1)
    first = draw(generator)
    assert not torch.equal(draw(generator), first)
    generator.seed(1)
    assert torch.equal(draw(generator), first)


def test_state_continues_where_it_was_saved():
    generator = MaskGenerator(5)
    draw(generator)
    file = io.BytesIO()
    torch.save(generator.state_dict(), file)
    following = draw(generator)
    file.seek(0)
    resumed = MaskGenerator(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(draw(resumed), following)


def test_a_copy_continues_on_its_own():
    generator = MaskGenerator(5)
    draw(generator)
    twin = copy.deepcopy(generator)
    assert torch.equal(draw(twin), draw(generator))

"""Models Genesis and TransVW's restoration: curves, shuffling, painting, and who gets which."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from common.methods.baselines import baseline_method
from common.methods.disturbance import (
    bend,
    bend_at_random,
    bend_by_table,
    bezier_curves,
    inner_boxes,
    outside_of_boxes,
    random_parts,
    shuffle_within,
)
from common.methods.restoration import Restoration
from common.networks.mit_unet import MixTransformerUNet

CPU = torch.device("cpu")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def method(**changes: Any) -> Restoration:
    size = {"variant": "b0", "stem_stride": 2, "decoder_channels": (8, 8, 4, 4), "drop_path_rate": 0.0}
    return Restoration(MixTransformerUNet(spatial_dims=2, out_channels=3, **size), **changes)


class TestCurves:
    def test_rising_curves_rise_and_falling_ones_fall_from_1_to_0(self) -> None:
        x, y = bezier_curves(torch.rand(40, 2, 2, generator=generator()), torch.arange(40) < 20)
        for along in (x, y[20:]):
            assert (along.diff() >= 0).all()
            torch.testing.assert_close(along[:, [0, -1]], torch.tensor([0.0, 1.0]).expand(len(along), 2))
        torch.testing.assert_close(y[:20, [0, -1]], torch.tensor([1.0, 0.0]).expand(20, 2))
        assert ((y >= 0) & (y <= 1)).all()

    def test_control_points_on_the_diagonal_change_nothing_or_invert(self) -> None:
        """A third and two thirds: the curve is the straight line, at an even pace."""
        inner = torch.tensor([[[1 / 3, 1 / 3], [2 / 3, 2 / 3]]]).expand(2, 2, 2)
        image = torch.rand(2, 3, 5, 4, generator=generator())
        bent = bend(image, *bezier_curves(inner, torch.tensor([False, True])))
        torch.testing.assert_close(bent[0], image[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(bent[1], 1 - image[1], atol=1e-5, rtol=0)

    def test_a_point_of_the_curve_by_hand(self) -> None:
        """At t = 1/2: an eighth of 3 p1 + 3 p2 + (1, 1)."""
        inner = torch.tensor([[[0.2, 0.6], [0.4, 0.8]]])
        x, y = bezier_curves(inner, torch.tensor([False]))
        place = torch.tensor([(3 * 0.2 + 3 * 0.4 + 1) / 8]).view(1, 1, 1)
        assert bend(place, x, y).item() == pytest.approx((3 * 0.6 + 3 * 0.8 + 1) / 8, abs=1e-4)

    def test_the_table_is_the_curve(self) -> None:
        """At the ends and in between, for 100 random curves of which some are all but upright."""
        curves = bezier_curves(torch.rand(100, 2, 2, generator=generator()), torch.arange(100) < 50)
        image = torch.rand(100, 2, 30, 50, generator=generator(1))
        image[:, 0, 0, :2] = torch.tensor([0.0, 1.0])
        torch.testing.assert_close(bend_by_table(image, *curves), bend(image, *curves), atol=1e-3, rtol=0)

    def test_each_sample_has_its_curve_and_equal_values_stay_equal(self) -> None:
        image = torch.rand(1, 1, 6, 6, generator=generator()).expand(20, 2, 6, 6)
        bent = bend_at_random(image, generator=generator(1))
        assert torch.equal(bent[:, 0], bent[:, 1])
        assert not torch.allclose(bent[0], bent[1])
        assert ((bent >= 0) & (bent <= 1)).all()


class TestShuffling:
    @pytest.mark.parametrize("shape", [(2, 2, 20, 30, 10), (2, 2, 20, 30)])
    def test_every_part_keeps_its_values_and_its_voxels_their_channels(self, shape: tuple[int, ...]) -> None:
        image = torch.rand(shape, generator=generator())
        image[:, 1] = image[:, 0] + 1
        parts = random_parts(list(shape[2:]), 2, generator=generator(1), device=CPU)
        shuffled = shuffle_within(image, parts, generator=generator(2))
        assert torch.equal(shuffled[:, 1], shuffled[:, 0] + 1)
        assert (shuffled != image).float().mean() > 0.3
        for b in range(2):
            for part in parts[b].unique()[:40]:
                inside = parts[b] == part
                before, after = image[b, 0][inside], shuffled[b, 0][inside]
                assert torch.equal(before.sort().values, after.sort().values)

    def test_all_orders_are_as_likely(self) -> None:
        image = torch.arange(3.0).expand(600, 1, 1, 3).contiguous()
        shuffled = shuffle_within(image, torch.zeros(600, 1, 3, dtype=torch.long), generator=generator())
        _, counts = shuffled.view(600, 3).unique(dim=0, return_counts=True)
        assert len(counts) == 6
        assert counts.min() > 60

    def test_parts_are_boxes_of_up_to_a_tenth_of_each_axis(self) -> None:
        parts = random_parts([40, 20], 1, generator=generator(), device=CPU)[0]
        edges = set()
        for part in parts.unique():
            rows, columns = (parts == part).nonzero().unbind(1)
            height, width = (int(place.max() - place.min()) + 1 for place in (rows, columns))
            assert len(rows) == height * width
            edges.add((height, width))
        # the last piece of an axis may be cut off, so that every length up to the longest is there
        assert {height for height, _ in edges} == {1, 2, 3, 4}
        assert {width for _, width in edges} == {1, 2}


def test_boxes_inside_and_outside() -> None:
    image = torch.zeros(60, 1, 36, 42)
    within, outside = (f(image, generator=generator()) for f in (inner_boxes, outside_of_boxes))
    border = torch.ones(36, 42, dtype=torch.bool)
    border[3:-3, 3:-3] = False
    assert not within[:, :, border].any()
    assert outside[:, :, border].all()
    assert 36 * 42 / 36 <= within[0].sum() <= 5 * 12 * 14
    assert (~outside).flatten(1).sum(1).min() >= (36 - 20) * (42 - 24)  # the first box is always there


class TestChoice:
    def test_rates_of_models_genesis(self) -> None:
        shuffled, bent, within, outside = method().choose(4000, generator()).float()
        for chosen, rate in ((shuffled, 0.5), (bent, 0.9), (within, 0.9 * 0.2), (outside, 0.9 * 0.8)):
            assert chosen.mean().item() == pytest.approx(rate, abs=0.03)
        assert (within * outside).max() == 0
        assert (shuffled * bent).mean().item() == pytest.approx(0.45, abs=0.03)

    def test_one_of_four_in_transvw(self) -> None:
        transvw = baseline_method(method().network, name="transvw", patch_size=16, mask_ratio=0.0)
        chosen = transvw.choose(4000, generator()).float()
        assert (chosen.sum(0) == 1).all()
        assert chosen.mean(1).tolist() == pytest.approx([0.25] * 4, abs=0.03)


class TestMethod:
    def test_the_image_is_the_target_of_what_is_seen(self) -> None:
        genesis = method()
        image = torch.rand(2, 3, 32, 32, generator=generator())
        outputs = genesis(image)
        assert torch.equal(outputs["target"][0], image)
        assert not torch.allclose(outputs["image"][0], image)
        assert outputs["reconstruction"].shape == (1, 2, 3, 32, 32)
        assert not outputs["mask"].any()
        genesis.seed_masks(0)
        again = genesis(image)
        assert torch.equal(again["image"], outputs["image"])
        torch.testing.assert_close(again["reconstruction"], genesis.network(outputs["image"][0])[None])

    def test_nothing_is_changed_where_nothing_is_drawn(self) -> None:
        image = torch.rand(2, 3, 32, 32, generator=generator())
        seen, painted = method(shuffle=0, bend=0, paint=0).disturb(image)
        assert torch.equal(seen, image)
        assert not painted.any()

    def test_paint_is_noise_where_the_region_says(self) -> None:
        image = torch.full((2, 3, 36, 36), 2.0)
        seen, painted = method(shuffle=0, bend=0, paint=1).disturb(image)
        assert torch.equal(seen[:, :1] != 2, painted)
        assert seen[painted.expand_as(seen)].mean().item() == pytest.approx(0.5, abs=0.05)

    def test_arguments_are_checked(self) -> None:
        with pytest.raises(ValueError, match="shuffle, bend, paint, outside"):
            method(bend=1.5)

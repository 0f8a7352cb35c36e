"""Views of contrastive methods: which part of the image they show, and what is changed in it."""

from __future__ import annotations

import math

import pytest
import torch

from common.methods.augmentation import random_crop, warp
from common.methods.distortion import RandomView, random_blur, random_noise, random_window


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ramp() -> torch.Tensor:
    """Three channels that count along the three axes, (1, 3, 8, 6, 4) in [0, 1]."""
    places = [(torch.arange(n) + 0.5) / n for n in (8, 6, 4)]
    return torch.stack(torch.meshgrid(*places, indexing="ij"))[None]


class TestRandomCrop:
    @pytest.mark.parametrize("dims", [2, 3])
    def test_boxes_lie_inside_and_have_their_share_and_aspect(self, dims: int) -> None:
        boxes = random_crop(1000, dims, min_share=0.2, aspect=4 / 3, generator=generator())
        edges = boxes[..., :dims].diagonal(dim1=1, dim2=2)
        assert torch.equal(boxes[..., :dims], torch.diag_embed(edges))
        assert (edges > 0).all()
        assert (edges + boxes[..., dims].abs()).max() <= 1 + 1e-6
        shares = edges.prod(1)
        assert 0.2 - 1e-6 <= shares.min() < 0.21
        assert shares.max() <= 1
        assert (edges.amax(1) / edges.amin(1)).max() <= 4 / 3 + 1e-5
        cubes = random_crop(1000, dims, min_share=0.2, aspect=1, generator=generator())[..., :dims]
        assert cubes.diagonal(dim1=1, dim2=2).prod(1).mean() == pytest.approx(0.6, abs=0.02)

    def test_the_largest_share_can_be_less_than_all(self) -> None:
        boxes = random_crop(1000, 3, min_share=0.05, max_share=0.2, generator=generator())
        shares = boxes[..., :3].diagonal(dim1=1, dim2=2).prod(1)
        assert 0.05 - 1e-6 <= shares.min() < 0.06
        assert 0.19 < shares.max() <= 0.2 + 1e-6

    def test_half_are_mirrored_along_the_axes_given_alone(self) -> None:
        boxes = random_crop(1000, 3, flip_axes=(0,), generator=generator())
        signs = boxes[..., :3].diagonal(dim1=1, dim2=2).sign()
        assert signs[:, 2].mean().abs() < 0.1  # the last axis comes first
        assert (signs[:, :2] == 1).all()

    def test_a_view_shows_its_box_at_the_size_of_the_image(self) -> None:
        """A ramp stays a ramp: its ends are those of the box, and mirrored it runs down."""
        image = ramp()
        box = random_crop(1, 3, min_share=0.3, flip_axes=(1,), generator=generator(4))
        box = box * torch.tensor([1.0, box[0, 1, 1].sign() * -1, 1, 1]).view(1, 1, 4)  # mirrored, whatever was drawn
        view = warp(image, box, beyond="border")
        assert view.shape == image.shape
        for axis in range(3):
            edge, centre = box[0, 2 - axis, 2 - axis], box[0, 2 - axis, 3]
            n = image.shape[2 + axis]
            wanted = (1 + centre + edge * (2 * (torch.arange(n) + 0.5) / n - 1)) / 2
            along = view[0, axis].movedim(axis, 0).flatten(1)[:, 0]
            # half a voxel at the image's border has no neighbour to interpolate with
            torch.testing.assert_close(along, wanted.clamp(0.5 / n, 1 - 0.5 / n), atol=1e-5, rtol=0)

    def test_the_border_is_not_darkened(self) -> None:
        boxes = random_crop(20, 3, generator=generator())
        assert warp(torch.ones(20, 1, 6, 6, 6), boxes, beyond="border").min() == pytest.approx(1, abs=1e-5)


def test_a_window_is_an_affine_change_of_each_channel() -> None:
    image = torch.rand(50, 2, 6, 6, generator=generator(), dtype=torch.float64) * 0.2 + 0.4  # nothing is cut off
    changed = random_window(image, width=0.4, level=0.2, probability=1.0, generator=generator(1))
    factor = changed.flatten(2).std(2) / image.flatten(2).std(2)
    shift = (changed - 0.5 - factor[..., None, None] * (image - 0.5)).flatten(2)
    assert 0.6 <= factor.min() < 0.65
    assert 1.35 < factor.max() <= 1.4
    torch.testing.assert_close(shift, shift[..., :1].expand_as(shift))
    assert 0.18 < shift.abs().max() <= 0.2
    assert not torch.allclose(factor[:, 0], factor[:, 1])  # every channel has its own window


def test_windows_stay_in_range_and_some_samples_stay_as_they_are() -> None:
    image = torch.rand(200, 1, 4, 4, generator=generator())
    changed = random_window(image, width=0.9, level=0.5, probability=0.8, generator=generator(1))
    assert changed.min() == 0
    assert changed.max() == 1
    same = (changed - image).flatten(1).abs().amax(1) < 1e-6
    assert same.float().mean() == pytest.approx(0.2, abs=0.08)


def test_a_blurred_point_is_a_gaussian_of_the_drawn_width() -> None:
    image = torch.zeros(1, 1, 21, 15, 17)
    image[..., 10, 7, 8] = 1
    blurred = random_blur(image, sigma=(1.5, 1.5), probability=1.0, generator=generator())
    assert blurred.sum() == pytest.approx(1, abs=1e-3)
    for axis in range(3):
        line = blurred[0, 0].movedim(axis, 0)
        centre = image.shape[2 + axis] // 2
        profile = line.flatten(1).sum(1)
        assert (profile[centre + 2] / profile[centre]).item() == pytest.approx(
            math.exp(-0.5 * (2 / 1.5) ** 2), rel=1e-4
        )


def test_blur_keeps_what_is_flat_and_leaves_half_of_the_samples_alone() -> None:
    torch.testing.assert_close(
        random_blur(torch.ones(2, 1, 5, 5), sigma=(2, 2), probability=1.0, generator=generator()),
        torch.ones(2, 1, 5, 5),
    )
    image = torch.rand(300, 1, 5, 4, generator=generator())
    blurred = random_blur(image, sigma=(1.0, 2.0), probability=0.5, generator=generator())
    same = (blurred == image).flatten(1).all(1)
    assert same.float().mean() == pytest.approx(0.5, abs=0.1)


def test_noise_has_a_deviation_of_its_own_in_each_sample() -> None:
    image = torch.full((200, 1, 12, 12), 0.5)
    deviation = (random_noise(image, sd=0.1, generator=generator()) - image).flatten(1).std(1)
    assert deviation.min() < 0.01
    assert deviation.mean() == pytest.approx(0.05, abs=0.01)
    assert 0.09 < deviation.max() < 0.12
    assert random_noise(torch.ones(1, 1, 9, 9), sd=0.1, generator=generator()).max() == 1


class TestRandomView:
    @pytest.mark.parametrize("shape", [(2, 3, 8, 6, 4), (2, 3, 8, 6)])
    def test_views_follow_the_seed_and_differ(self, shape: tuple[int, ...]) -> None:
        image = torch.rand(shape, generator=generator())
        stream = generator(3)
        first, second = (RandomView()(image, stream) for _ in range(2))
        assert first.shape == image.shape
        assert 0 <= first.min() <= first.max() <= 1
        assert not torch.allclose(first, second)
        assert torch.equal(RandomView()(image, generator(3)), first)

    def test_with_everything_off_it_is_the_image(self) -> None:
        off = RandomView(min_share=1.0, aspect=1, flip_axes=(), width=0, level=0, blur_probability=0, noise_sd=0)
        torch.testing.assert_close(off(ramp(), generator()), ramp(), atol=1e-5, rtol=0)

    def test_a_view_of_another_size_shows_the_same_part(self) -> None:
        """Every second voxel's place of a ramp: the mean of two voxels."""
        off = RandomView(min_share=1.0, aspect=1, flip_axes=(), width=0, level=0, blur_probability=0, noise_sd=0)
        view = off(ramp(), generator(), shape=(4, 3, 2))
        torch.testing.assert_close(view, torch.nn.functional.avg_pool3d(ramp(), 2), atol=1e-5, rtol=0)

    def test_left_and_right_are_not_mirrored(self) -> None:
        view = RandomView(min_share=1.0, aspect=1, width=0, level=0, blur_probability=0, noise_sd=0)
        image = ramp().expand(40, -1, -1, -1, -1)
        left_to_right, *others = (view(image, generator())[:, axis].flatten(1) for axis in range(3))
        torch.testing.assert_close(left_to_right, image[:, 0].flatten(1), atol=1e-5, rtol=0)
        for axis, seen in enumerate(others, start=1):
            mirrored = (seen - image[:, axis].flatten(1)).abs().amax(1) > 0.1
            assert 0.2 < mirrored.float().mean() < 0.8

    def test_half_precision_does_not_reach_it(self) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            view = RandomView()(ramp(), generator())
        assert torch.equal(view, RandomView()(ramp(), generator()))

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"min_share": 0.0}, "min_share"),
            ({"min_share": 0.3, "max_share": 0.2}, "max_share"),
            ({"aspect": 0.5}, "aspect"),
            ({"blur_probability": 2.0}, "0 to 1"),
            ({"width": 1.0}, "a width below 1"),
            ({"sigma": (2.0, 1.0)}, "smallest and the largest sigma"),
        ],
    )
    def test_arguments_are_checked(self, arguments: dict, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            RandomView(**arguments)

"""What pictures of a pretraining show."""

from __future__ import annotations

import torch

from common.handlers.reconstruction_pictures import picture_rows


def outputs(channels: int = 1) -> dict[str, object]:
    image = torch.rand(2, channels, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    mask = image[:, :1] > 0.5
    return {
        "reconstruction": torch.stack([image + 0.1, image]),
        "target": image.expand(2, *image.shape),
        "mask": torch.stack([mask, ~mask]),
        "fill": 0.25,
    }


def test_a_row_per_view_of_the_first_sample() -> None:
    made = outputs()
    rows = picture_rows(made, ("by day",))
    assert [title for title, _ in rows] == ["by day", "view 2"]
    image, mask = made["target"][0, 0], made["mask"][0, 0]
    first = rows[0][1]
    assert list(first) == ["input", "masked input", "reconstruction", "absolute error"]
    assert torch.equal(first["input"], image)
    assert (first["masked input"][mask] == 0.25).all()
    assert torch.equal(first["masked input"][~mask], image[~mask])
    torch.testing.assert_close(first["absolute error"], torch.full_like(image, 0.1))


def test_where_nothing_is_reconstructed_the_views_are_drawn() -> None:
    image, views = torch.rand(2, 3, 8, 8, 8), torch.rand(2, 2, 3, 8, 8, 8)
    rows = picture_rows({"image": image.expand_as(views), "views": views}, ("query", "key"))
    assert [title for title, _ in rows] == ["query", "key"]
    for (_, images), view in zip(rows, views, strict=True):
        assert list(images) == ["input", "view"]
        assert torch.equal(images["input"], image[0])
        assert torch.equal(images["view"], view[0])


def test_regions_are_tinted() -> None:
    for channels in (1, 3):
        made = outputs(channels)
        made["regions"] = {"lesion": made["mask"]}
        (_, images), (_, other) = picture_rows(made)
        grey = made["target"][0, 0].mean(0)
        lesion = made["mask"][0, 0, 0]
        red, _, blue = images["lesion"]
        assert (red[lesion] > blue[lesion]).all()
        assert torch.equal(red[~lesion], grey[~lesion])
        assert torch.equal(other["lesion"][0][lesion], grey[lesion])


def test_maps_are_columns_of_their_own() -> None:
    made = outputs()
    difficulty = torch.rand(made["mask"].shape)
    made["maps"] = {"difficulty": difficulty}
    (_, images), (_, other) = picture_rows(made)
    assert torch.equal(images["difficulty map"], difficulty[0, 0])
    assert torch.equal(other["difficulty map"], difficulty[1, 0])


def test_an_input_that_is_not_the_target_and_further_images_have_columns() -> None:
    made = outputs()
    made["image"] = 1 - made["target"]
    made["images"] = {"second view": made["target"] / 2}
    images = picture_rows(made)[0][1]
    assert list(images) == ["input", "masked input", "target", "reconstruction", "absolute error", "second view"]
    image, mask = made["image"][0, 0], made["mask"][0, 0]
    assert torch.equal(images["input"], image)
    assert torch.equal(images["masked input"][~mask], image[~mask])
    assert torch.equal(images["target"], made["target"][0, 0])
    torch.testing.assert_close(images["absolute error"], torch.full_like(image, 0.1))
    assert torch.equal(images["second view"], made["target"][0, 0] / 2)


def test_an_input_of_which_nothing_is_hidden_is_drawn_once() -> None:
    made = outputs()
    made["image"], made["mask"] = 1 - made["target"], torch.zeros_like(made["mask"])
    assert list(picture_rows(made)[0][1]) == ["input", "target", "reconstruction", "absolute error"]
    del made["image"]  # as in an autoencoder, whose pictures keep their columns
    assert list(picture_rows(made)[0][1]) == ["input", "masked input", "reconstruction", "absolute error"]

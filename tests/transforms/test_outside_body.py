from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor

from common.masking.enclosed import CERTAIN_BACKGROUND
from common.transforms.outside_body import BodyMaskd, ClearOutsideBodyd, MarkOutsideBodyd


def ct(hu: torch.Tensor, *spacing: float) -> MetaTensor:
    """With voxels of this size, or 3 mm."""
    return MetaTensor(hu, affine=torch.diag(torch.tensor([*(spacing or (3.0, 3.0, 3.0)), 1.0])))


def test_air_around_the_body_is_marked_and_nothing_else() -> None:
    image = torch.full((1, 9, 9, 3), -1000, dtype=torch.int16)
    image[:, 2:7, 2:7] = 40
    image[:, 4, 4] = -800  # lung
    label = torch.zeros(1, 9, 9, 3, dtype=torch.uint8)
    label[:, 3, 3] = 2
    label[:, 0, 0] = 5  # drawn outside the body: an annotation is believed
    marked = MarkOutsideBodyd(keys="label")({"image": ct(image), "label": label})["label"]
    assert marked.dtype == torch.uint8
    assert set(marked[:, 2:7, 2:7].unique().tolist()) == {0, 2}
    assert (marked[:, 0, 0] == 5).all()
    assert (marked[:, 1] == CERTAIN_BACKGROUND).all()
    assert (label != CERTAIN_BACKGROUND).all()


def test_a_lung_at_the_edge_of_the_field_of_view_is_inside() -> None:
    """Chest wall in front, behind and on the left, air up to the right edge of the image."""
    image = torch.full((1, 6, 6, 1), -800.0)
    image[:, :, 0] = image[:, :, 5] = image[:, 0] = 40
    label = torch.zeros(1, 6, 6, 1, dtype=torch.uint8)
    assert not MarkOutsideBodyd(keys="label")({"image": ct(image), "label": label})["label"].any()


def test_the_air_between_the_body_and_the_table_is_outside() -> None:
    image = torch.full((1, 9, 9, 3), -1000.0)
    image[:, 2:7, 4:8] = 40  # the body
    image[:, :, 1] = 0  # the table, thinner, below it; an arm would look like this
    marked = MarkOutsideBodyd(keys="label")({"image": ct(image), "label": torch.zeros(1, 9, 9, 3, dtype=torch.uint8)})
    assert (marked["label"][:, 2:7, 4:8] == 0).all()
    assert (marked["label"][:, :, [0, 2, 3]] == CERTAIN_BACKGROUND).all()
    assert (marked["label"][:, :, 1] == 0).all()


# of the table 6 mm are seen, in all three
@pytest.mark.parametrize("finer", [(1, 1, 1), (2, 2, 2), (1, 2, 1)])
def test_so_is_the_air_beside_the_place_where_the_back_touches_the_table(finer: tuple[int, int, int]) -> None:
    image = torch.full((1, 13, 14, 5), -1000.0)
    image[:, 3:10, 6:13] = 40  # the body
    image[:, 6, 9] = -800  # its lung, behind a wall of 9 mm
    image[:, :, 1:3] = 0  # the table
    image[:, 6, 3:6] = 0  # what holds the body up
    for axis, n in enumerate(finer, start=1):
        image = image.repeat_interleave(n, axis)
    image = ct(image, *(3 / n for n in finer))
    marked = MarkOutsideBodyd(keys="label")({"image": image, "label": torch.zeros(image.shape, dtype=torch.uint8)})
    label = marked["label"][:, :: finer[0], :: finer[1], :: finer[2]]
    assert (label[:, 3:10, 6:13] == 0).all()
    assert (label[:, [3, 4, 8, 9], 3:5] == CERTAIN_BACKGROUND).all()


def test_an_image_that_has_lost_its_spacing_is_refused() -> None:
    with pytest.raises(ValueError, match="image: got a tensor without an affine"):
        BodyMaskd(keys="image")({"image": torch.zeros(1, 4, 4, 4)})


def test_masks_are_cleared_in_the_air_around_the_body_only() -> None:
    image = torch.full((1, 9, 9, 3), -1000.0)
    image[:, 2:7, 2:7] = 40
    image[:, 4, 4] = -800  # lung
    data = BodyMaskd(keys="image")({"image": ct(image), "pred": torch.full((1, 9, 9, 3), 2, dtype=torch.uint8)})
    cleared = ClearOutsideBodyd(keys="pred")(data)["pred"]
    assert cleared.dtype == torch.uint8
    assert (cleared[:, 2:7, 2:7] == 2).all()
    assert cleared.count_nonzero() == 5 * 5 * 3
    del data["body"]
    assert (ClearOutsideBodyd(keys="pred")(data)["pred"] == 2).all()

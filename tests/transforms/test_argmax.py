"""Class scores become one uint8 volume."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor

from common.transforms import argmax
from common.transforms.argmax import ArgmaxChannelsd, channel_argmax


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(5, 7, 6, 3), (2, 9, 4), (14, 1, 5, 2)])
def test_equals_max_over_channels(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    scores = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    result = channel_argmax(scores)
    assert result.dtype == torch.uint8
    assert result.shape == (1, *shape[1:])
    # half precision has ties, in which max(dim=0) may name either channel
    assert torch.equal(scores.gather(0, result.long())[0], scores.amax(0))


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = torch.randn(4, 11, 5, 3, generator=torch.Generator().manual_seed(1))
    whole = channel_argmax(scores)
    monkeypatch.setattr(argmax, "_BLOCK_VOXELS", 45)  # three rows at a time, the last block shorter
    assert torch.equal(channel_argmax(scores), whole)
    assert torch.equal(whole[0].long(), scores.argmax(0))


def test_scores_stay_and_equal_scores_give_the_lowest_channel() -> None:
    scores = torch.tensor([[[1.0, 2.0]], [[1.0, 3.0]], [[0.0, 3.0]]])
    before = scores.clone()
    assert channel_argmax(scores).tolist() == [[[0, 1]]]
    assert torch.equal(scores, before)


def test_strided_scores() -> None:
    scores = torch.randn(6, 5, 4, 3).permute(3, 2, 0, 1)
    assert torch.equal(channel_argmax(scores)[0].long(), scores.argmax(0))


def test_affine_and_metadata_are_kept() -> None:
    affine = torch.diag(torch.tensor([1.5, 1.5, 3.0, 1.0], dtype=torch.float64))
    scores = MetaTensor(torch.randn(3, 4, 4, 4), affine=affine, meta={"filename_or_obj": "a.nii.gz"})
    result = ArgmaxChannelsd()({"pred": scores, "case": "a"})
    assert isinstance(result["pred"], MetaTensor)
    assert torch.equal(result["pred"].affine, affine)
    assert result["pred"].meta["filename_or_obj"] == "a.nii.gz"
    assert result["pred"].dtype == torch.uint8
    assert result["case"] == "a"


@pytest.mark.parametrize("channels", [1, 257])
def test_number_of_channels_is_checked(channels: int) -> None:
    with pytest.raises(ValueError, match="2 to 256 channels"):
        channel_argmax(torch.zeros(channels, 2, 2))


def test_channels_that_were_chosen_before_stay() -> None:
    chosen = torch.tensor([[[0, 2], [1, 0]]], dtype=torch.uint8)
    assert ArgmaxChannelsd()({"pred": chosen})["pred"] is chosen

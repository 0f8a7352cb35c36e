from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.transforms import Compose

from common.errors import InputError
from common.transforms.load import LoadVolumed
from common.transforms.structures import (
    ChannelsToIds,
    ChannelsToIdsd,
    StructuresToChannelsd,
    annotated_channels,
)
from tests.volumes import AFFINE, write_case

STRUCTURES = {"tumor": 24, "lung_left": 1, "heart": 3}  # channels 1, 2, 3


def _label(ids: list[int], dtype: torch.dtype = torch.float32) -> MetaTensor:
    return MetaTensor(torch.tensor(ids, dtype=dtype).reshape(1, -1, 1, 1), affine=torch.as_tensor(AFFINE))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.uint8, torch.int32, torch.int64])
def test_ids_become_positions_and_others_background(dtype: torch.dtype) -> None:
    label = _label([0, 1, 2, 3, 24, 25, 200], dtype)

    out = StructuresToChannelsd(structures=STRUCTURES)({"label": label})["label"]

    assert out.flatten().tolist() == [0, 2, 0, 3, 1, 0, 0]
    assert out.dtype == torch.uint8
    assert isinstance(out, MetaTensor)
    np.testing.assert_allclose(out.affine, AFFINE)
    assert label.flatten().tolist() == [0, 1, 2, 3, 24, 25, 200]  # the given label is not changed


def test_way_back() -> None:
    ids = torch.tensor([0, 1, 3, 24]).reshape(1, 2, 2)
    channels = StructuresToChannelsd(structures=STRUCTURES)({"label": ids})["label"]

    back = ChannelsToIds(structures=STRUCTURES)(channels)

    assert back.dtype == torch.uint8
    assert back.tolist() == ids.tolist()
    assert not isinstance(back, MetaTensor)
    prediction = _label([0, 1, 2, 3])
    out = ChannelsToIdsd(keys="pred", structures=STRUCTURES)({"pred": prediction, "case": "a"})
    assert out["pred"].flatten().tolist() == [0, 24, 1, 3]
    np.testing.assert_allclose(out["pred"].affine, AFFINE)
    assert out["case"] == "a"


@pytest.mark.parametrize(
    ("annotated", "expected"),
    [
        (None, [True, True, True, True]),
        ([], [True, False, False, False]),
        ([1, 2], [True, False, True, False]),
        ([24, 3, 1], [True, True, True, True]),
    ],
)
def test_annotated_ids_become_channels(annotated: list[int] | None, expected: list[bool]) -> None:
    item = {"label": _label([0, 1])} | ({} if annotated is None else {"annotated": annotated})

    out = StructuresToChannelsd(structures=STRUCTURES)(item)["annotated"]

    assert out.dtype == torch.bool
    assert out.tolist() == annotated_channels(STRUCTURES, annotated).tolist() == expected


def test_cases_with_different_annotations_make_a_batch(tmp_path: Path) -> None:
    write_case(tmp_path, "a.nii.gz", "labels/a.nii.gz", ids=(1, 2))
    paths = {"image": str(tmp_path / "a.nii.gz"), "label": str(tmp_path / "labels" / "a.nii.gz")}
    items = [{**paths, "annotated": [1], "known_ids": [1, 2]}, {**paths, "annotated": [1, 3, 24]}, paths]
    load = Compose([LoadVolumed(keys=["image", "label"]), StructuresToChannelsd(structures=STRUCTURES)])

    (batch,) = DataLoader(Dataset(items, load), batch_size=3)

    assert batch["annotated"].shape == (3, 4)
    assert batch["annotated"].sum(dim=1).tolist() == [2, 4, 4]
    assert "known_ids" not in batch
    assert batch["label"].unique().tolist() == [0, 2]


def test_unknown_ids_are_refused_where_the_known_ones_are_given() -> None:
    convert = StructuresToChannelsd(structures=STRUCTURES)

    with pytest.raises(InputError, match="unknown label ids 7"):
        convert({"label": _label([0, 1, 7]), "known_ids": [1, 2]})
    assert convert({"label": _label([0, 1, 7])})["label"].flatten().tolist() == [0, 2, 0]


def test_a_missing_label_leaves_the_case_usable() -> None:
    out = StructuresToChannelsd(structures=STRUCTURES, allow_missing_keys=True)({"annotated": []})

    assert out["annotated"].tolist() == [True, False, False, False]


@pytest.mark.parametrize(
    ("structures", "message"),
    [
        ({}, "names none"),
        ({"a": 0}, "from 1 to 255"),
        ({"a": 256}, "from 1 to 255"),
        ({"a": 1.5}, "from 1 to 255"),
        ({"a": 1, "b": 1}, "one id twice"),
        ({f"s{i}": i for i in range(1, 256)}, "at most 254"),
    ],
)
def test_bad_structures(structures: dict, message: str) -> None:
    for make in (StructuresToChannelsd, ChannelsToIds):
        with pytest.raises(InputError, match=f"structures: .*{message}"):
            make(structures=structures)

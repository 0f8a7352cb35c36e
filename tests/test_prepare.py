"""From a folder to an archive, and back to what training would have read from the folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import CacheDataset

from common.data.archive import centres_file, image_file, label_file
from common.data.cases import find_cases
from common.data.datalist import inference_items, pretraining_items, training_items
from common.data.structures import ALL_STRUCTURES, CHEST_STRUCTURES
from common.errors import InputError, input_error_message
from common.prepare import Preparation, prepare_folder
from common.recipes import cached_volume, chain, random_crops
from common.transforms.chest_channels import ChestChannelsd
from common.workflows import case_digest, cases_inside
from tests.volumes import ct_array, label_array, write_case, write_nifti

SPACING = (6.0, 6.0, 6.0)
EVERYTHING = (slice(None),) * 4


@pytest.fixture(scope="module")
def archive(phantom_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("archive") / "ct"
    prepare_folder(phantom_dir, out, spacing=SPACING)
    return out


@pytest.fixture(scope="module")
def prepared_small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two labelled cases and one without, and its archive."""
    root = tmp_path_factory.mktemp("small")
    for name in "ab":
        write_case(root / "source", f"imagesTr/{name}.nii.gz", f"labelsTr/{name}.nii.gz")
    write_case(root / "source", "imagesUn/c.nii.gz")
    prepare_folder(root / "source", root / "archive", spacing=(2, 2, 3))
    return root


@pytest.fixture
def small(prepared_small: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A copy of both, to change."""
    for name in ("source", "archive"):
        shutil.copytree(prepared_small / name, tmp_path / name)
    assert "3 kept, 0 written" in prepare_folder(tmp_path / "source", tmp_path / "archive")
    return tmp_path / "source", tmp_path / "archive"


def refusal(item: dict, spacing: tuple[float, ...], structures: dict[str, int] | None = None) -> str:
    """What training says of an item."""
    with pytest.raises(Exception, match="applying transform") as caught:
        cached_volume(spacing=spacing, roi_size=(4, 4, 4), structures=structures)(item)
    return str(input_error_message(caught.value))


def states(source: Path, out: Path, **options: bool) -> list[str]:
    work = Preparation(source, out, spacing=(2, 2, 3), **options)
    return [work[i].state for i in range(len(work))]


@pytest.mark.parametrize("roi_size", [(16, 16, 16), (64, 24, 64)])
def test_an_archive_holds_what_the_cache_would(phantom_dir: Path, archive: Path, roi_size: tuple[int, ...]) -> None:
    """To the last bit: image, label with its certain background, annotation, crop centres, and padding."""
    options = {"structures": CHEST_STRUCTURES, "val_fraction": 0.34}
    read = cached_volume(spacing=SPACING, roi_size=roi_size, structures=CHEST_STRUCTURES)
    from_folder = read(training_items(phantom_dir, **options)[0])
    opened = read(training_items(archive, **options)[0])
    assert opened.keys() == from_folder.keys()
    for name in ("image", "label"):
        assert opened[name].shape == from_folder[name].shape
        crop = opened[name][EVERYTHING]
        assert crop.dtype == from_folder[name].dtype
        assert torch.equal(crop.as_tensor(), from_folder[name])
    assert torch.equal(opened["annotated"], from_folder["annotated"])
    assert len(opened["label_voxels"]) == len(CHEST_STRUCTURES) + 1
    for centres, expected in list(zip(opened["label_voxels"], from_folder["label_voxels"], strict=True))[1:]:
        assert np.array_equal(centres, expected)


def test_a_crop_of_an_archive_is_that_of_the_volume(phantom_dir: Path, archive: Path) -> None:
    """Same seed, same crop: what surrounds a crop, turning and channels included, does not know the difference."""

    def crops(folder: Path, structures: dict[str, int] | None) -> list[dict]:
        if structures is None:
            items = pretraining_items(folder, val_fraction=0.34)[:1]
        else:
            items = training_items(folder, structures=structures, val_fraction=0.34)[:1]
        volume = cached_volume(spacing=SPACING, roi_size=(16, 16, 16), structures=structures)
        random = random_crops(
            roi_size=(16, 16, 16), spatial_dims=3, channels=ChestChannelsd(keys="image"), structures=structures
        )
        dataset = CacheDataset(items, chain(volume, random), copy_cache=False, progress=False)
        dataset.transform.set_random_state(3)
        drawn = [dataset[0] for _ in range(3)]
        return [crop[0] if isinstance(crop, list) else crop for crop in drawn]

    for structures in (None, ALL_STRUCTURES):
        for ours, theirs in zip(crops(archive, structures), crops(phantom_dir, structures), strict=True):
            for name in ("image",) if structures is None else ("image", "label", "annotated"):
                assert torch.equal(torch.as_tensor(ours[name]), torch.as_tensor(theirs[name])), name
            assert ours["case"] == theirs["case"]


def test_splits_are_those_of_the_folder(phantom_dir: Path, archive: Path) -> None:
    for seed in (0, 1):
        pretraining = [pretraining_items(folder, seed=seed) for folder in (phantom_dir, archive)]
        assert case_digest(pretraining[0]) == case_digest(pretraining[1])
        assert cases_inside(pretraining[1], str(archive))
        for section in ("train", "val", "test"):
            folder, archived = (
                training_items(f, structures=CHEST_STRUCTURES, seed=seed, section=section)
                for f in (phantom_dir, archive)
            )
            assert [i["case"] for i in folder] == [i["case"] for i in archived]
            if section != "train":  # measured on the original files
                assert folder == archived
    assert inference_items(archive) == inference_items_of_all(phantom_dir)


def inference_items_of_all(folder: Path) -> list[dict]:
    return [{"image": case.image, "case": case.id} for case in find_cases(folder)]


def test_partial_labels_stay_partial(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "archive"
    for name in "ab":
        write_case(source, f"imagesTr/{name}.nii.gz", f"labelsTr/{name}.nii.gz")
    content = {"labels": {"1": "x", "2": "y"}, "cases": {"a": {"annotated_ids": [1]}, "b": {"annotated_ids": [2]}}}
    (source / "dataset.json").write_text(json.dumps(content))
    prepare_folder(source, out, spacing=(0, 0, 0))
    structures = {"x": 1, "y": 2}
    (item,) = training_items(out, structures=structures)
    opened = cached_volume(spacing=(-1, -1, -1), roi_size=(4, 4, 4), structures=structures)(item)
    assert opened["annotated"].tolist() == ([True, True, False] if item["case"] == "a" else [True, False, True])
    with pytest.raises(InputError, match="id 2 is 'z', but"):
        training_items(out, structures={"z": 2})
    content["cases"]["a"]["annotated_ids"] = [1, 2]  # told without another file being touched
    (source / "dataset.json").write_text(json.dumps(content))
    assert "2 kept, 0 written" in prepare_folder(source, out, spacing=(0, 0, 0))
    assert {c.id: c.annotated for c in find_cases(out)} == {"a": (1, 2), "b": (2,)}


def test_background_centres_where_a_label_holds_more_than_the_structures(small: tuple[Path, Path]) -> None:
    """Ids that are not trained are background; labels of the archive keep them for another training."""
    (item,) = training_items(small[1], structures={"heart": 1, "other": 2}, val_fraction=0.5)
    opened = cached_volume(spacing=(2, 2, 3), roi_size=(4, 4, 4), structures={"other": 2})(
        {**item, "known_ids": [1, 2]}
    )
    background, other = opened["label_voxels"]
    label = opened["label"][EVERYTHING].flatten()
    assert (label[torch.as_tensor(other)] == 1).all()
    assert len(other) + len(background) == len(label)
    assert not np.intersect1d(other, background).size
    assert "unknown label ids 1 (known: 2)" in refusal({**item, "known_ids": [2]}, (2, 2, 3), {"other": 2})


def test_another_spacing_is_refused_by_name(small: tuple[Path, Path]) -> None:
    message = refusal(pretraining_items(small[1])[0], (3, 3, 3))
    assert message.startswith(f"{small[1]}: prepared at 2 x 2 x 3 mm, the training is set to 3 x 3 x 3 mm. Set spacing")
    with pytest.raises(InputError, match=r"prepared at spacing \[2.0, 2.0, 3.0\], \[1.0, 1.0, 1.0\] given"):
        prepare_folder(small[0], small[1], spacing=(1, 1, 1))


def test_only_what_changed_is_done_again(small: tuple[Path, Path]) -> None:
    source, out = small
    assert states(source, out) == ["kept"] * 3
    (source / "imagesTr" / "a.nii.gz").touch()  # another time, the same content
    assert states(source, out) == ["kept"] * 3
    write_nifti(source / "imagesTr" / "a.nii.gz", ct_array(seed=1))
    (source / "labelsTr" / "b.nii.gz").unlink()
    assert states(source, out, verify=True) == ["failed", "failed", "kept"]
    assert states(source, out) == ["written", "written", "kept"]
    assert states(source, out, verify=True) == ["kept"] * 3


@pytest.mark.parametrize("file", [image_file, label_file, lambda out, case: centres_file(label_file(out, case))])
def test_damage_is_found_and_mended(small: tuple[Path, Path], file, capsys: pytest.CaptureFixture) -> None:
    source, out = small
    damaged = file(out, "a")
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(bytes(content))
    with pytest.raises(InputError, match=r"3 cases, 2 verified, .* 1 failed, named above"):
        prepare_folder(source, out, spacing=(2, 2, 3), verify=True)
    assert f"error: {damaged}: damaged, its checksum" in capsys.readouterr().err
    assert "3 cases, 2 kept, 1 written" in prepare_folder(source, out, spacing=(2, 2, 3))
    assert "3 cases, 3 verified" in prepare_folder(source, out, spacing=(2, 2, 3), verify=True)
    damaged.write_bytes(bytes(content[:40]))  # found by training, too
    (item,) = training_items(out, structures={"heart": 1, "other": 2}, val_fraction=0.5)
    item = {**item, "image": str(image_file(out, "a")), "label": str(label_file(out, "a")), "known_ids": [1, 2]}
    assert refusal(item, (2, 2, 3), {"heart": 1, "other": 2}).startswith(f"{damaged}: missing or damaged")


def test_bad_files_do_not_stop_the_others(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source, out = tmp_path / "source", tmp_path / "archive"
    write_case(source, "good.nii.gz", "labels/good.nii.gz")
    (source / "bad.nii.gz").write_bytes(b"no")
    write_case(source, "other.nii.gz")
    write_nifti(source / "labels" / "other.nii.gz", label_array((4, 4, 4)))
    with pytest.raises(InputError, match=r"3 cases, 0 kept, 1 written, .*; 2 failed"):
        prepare_folder(source, out, spacing=(2, 2, 3), workers=1)
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert ["cannot be read as NIfTI" in errors[0], "label on another grid" in errors[1]] == [True, True]
    assert [case.id for case in find_cases(out)] == ["good"]
    assert not list(out.rglob(".part-*"))


def test_an_interrupted_preparation_goes_on(small: tuple[Path, Path]) -> None:
    """Also where it was complete before: old files lie beside new ones until all are done."""
    source, out = small
    (out / "cases" / "b.json").unlink()
    Preparation(source, out, spacing=(2, 2, 3)).begin()
    with pytest.raises(InputError, match="its preparation was not finished"):
        find_cases(out)
    assert "3 cases, 2 kept, 1 written" in prepare_folder(source, out)  # at the spacing that it was begun with
    assert len(find_cases(out)) == 3


def test_a_disk_that_fails_costs_one_case(small: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path) -> str:
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr("common.prepare.fingerprint", broken)
    source, out = small
    (out / "cases" / "a.json").unlink()
    outcome = Preparation(source, out, spacing=(2, 2, 3))[0]
    assert outcome.state == "failed"
    assert outcome.message.endswith("a.nii.gz: cannot be read or written (Input/output error).")


def test_ids_that_no_structure_can_have_are_refused(tmp_path: Path) -> None:
    """As a training from the folder refuses them; they cannot be kept."""
    write_case(tmp_path / "source", "a.nii.gz")
    write_nifti(tmp_path / "source" / "labels" / "a.nii.gz", np.where(label_array() == 1, 300, 0).astype(np.int16))
    outcome = Preparation(tmp_path / "source", tmp_path / "archive", spacing=(2, 2, 3))[0]
    assert outcome.state == "failed"
    assert "unknown label ids 300" in outcome.message


def test_training_needs_the_archive_alone(small: tuple[Path, Path]) -> None:
    source, out = small
    shutil.rmtree(source)
    items = pretraining_items(out, val_fraction=0.5)
    opened = cached_volume(spacing=(2, 2, 3), roi_size=(4, 4, 4))(items[0])
    assert opened["image"][EVERYTHING].dtype == torch.int16


def test_records_say_what_is_in_a_file(small: tuple[Path, Path]) -> None:
    record = json.loads((small[1] / "cases" / "a.json").read_text())
    hu = ct_array()
    assert record["shape"] == list(hu.shape)
    assert record["body_box"] == [[0, 0, 0], list(hu.shape)]  # the margin reaches the border
    assert record["affine"] == np.diag([2.0, 2.0, 3.0, 1.0]).tolist()
    assert (record["hu"]["min"], record["hu"]["max"]) == (hu.min(), hu.max())
    assert record["hu"]["mean"] == pytest.approx(hu.mean())
    assert record["label_voxels"] == {"0": 800, "1": 80, "2": 80}


def test_misuse_is_refused(small: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a prepared archive"):
        prepare_folder(small[1], tmp_path / "x", spacing=(2, 2, 3))
    with pytest.raises(InputError, match="no prepared archive"):
        prepare_folder(small[0], tmp_path / "x", spacing=(2, 2, 3), verify=True)
    with pytest.raises(InputError, match="is the folder of the scans itself"):
        prepare_folder(small[0], small[0], spacing=(2, 2, 3))
    write_case(tmp_path / "others", "z.nii.gz")
    with pytest.raises(InputError, match=f"prepared from {small[0]}, of which {tmp_path / 'others'} has no case"):
        prepare_folder(tmp_path / "others", small[1], spacing=(2, 2, 3))
    with pytest.raises(InputError, match="workers: -1 given"):
        prepare_folder(small[0], small[1], spacing=(2, 2, 3), workers=-1)
    index = json.loads((small[1] / "archive.json").read_text())
    (small[1] / "archive.json").write_text(json.dumps({**index, "version": 99}))
    with pytest.raises(InputError, match="layout version 99, this program reads 1"):
        find_cases(small[1])

"""What every bundle's files must be like, read without running them."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import monai.bundle
import pytest
from monai.bundle import ConfigParser, ConfigWorkflow

from common.data.structures import ALL_STRUCTURES
from common.transforms.structures import check_structures
from tests.bundles.discovery import (
    BASE_CONFIGS,
    BUNDLES,
    CLASSIFIERS,
    NAMES,
    OVERLAYS,
    REPOSITORY,
    config,
    config_file,
    expressions,
)

CONFIGS = [(name, c) for name in NAMES for c in (*BASE_CONFIGS, *OVERLAYS)]
CONFIGS += [(name, c) for name in CLASSIFIERS for c in ("classify", "classify_inference")]
TRAIN_IDS = [
    "bundle_root",
    "device",
    "dataset_dir",
    "network_def",
    "network",
    "loss",
    "optimizer",
    "train#dataset#data",
    "train#handlers",
    "train#trainer#max_epochs",
    "train#inferer",
    "validate#dataset#data",
    "validate#evaluator",
    "initialize",
    "run",
]


def test_there_are_bundles() -> None:
    assert "isd_mae" in NAMES


@pytest.mark.parametrize("bundle", BUNDLES, ids=NAMES)
def test_files_are_complete(bundle: Path) -> None:
    for name in ("LICENSE", "docs/README.md", "docs/data_license.txt", "configs/logging.conf"):
        assert (bundle / name).stat().st_size > 0
    for name in (*BASE_CONFIGS, *OVERLAYS):
        assert (bundle / "configs" / f"{name}.json").is_file()


@pytest.mark.parametrize(("name", "file"), CONFIGS)
def test_config_reads_well(name: str, file: str) -> None:
    content = config(name, file)
    assert next(iter(content)) == "_summary_"
    for text in expressions(content):
        assert "lambda" not in text
        assert not re.match(r"^[$'\"]*/", text), f"absolute path: {text}"
        if text.startswith("$"):
            assert len(text) <= 120, text


@pytest.mark.parametrize(("name", "overlay"), [(n, o) for n in NAMES for o in OVERLAYS if o != "evaluate"])
def test_overlays_only_change_what_is_there(name: str, overlay: str) -> None:
    """A key that no base config has would be read by nobody."""
    bases = [*BASE_CONFIGS, *(["classify"] if name in CLASSIFIERS else [])]
    known = {key for base in bases for key in config(name, base)} | {"finalize"}
    for key in config(name, overlay):
        assert key.split("#")[0] in known, key


@pytest.mark.parametrize("name", NAMES)
def test_knobs_agree_between_configs(name: str) -> None:
    """One definition of the network and its input, whichever file it is read from."""
    train, pretrain, inference = (config(name, c) for c in BASE_CONFIGS)
    assert train["network_def"] == inference["network_def"]
    assert train["structures"] == inference["structures"]
    differing = set(train["pretrain_overrides"]) - set(pretrain)
    assert not differing
    for knob in train["architecture"]:
        assert train["architecture"][knob] == pretrain["architecture"][knob] == inference["card"][knob]
    knobs = {
        k for k, v in train.items() if not isinstance(v, (dict, str)) and k not in ("imports", "initialize", "run")
    }
    for other in (pretrain, inference):
        for knob in knobs & set(other):
            assert train[knob] == other[knob], knob


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_knobs_of_a_classifier_agree_with_the_pretraining(name: str) -> None:
    """Its encoder is the pretrained one, and the first stage that it runs is that of ``train.json``."""
    train, pretrain, classify = (config(name, c) for c in ("train", "pretrain", "classify"))
    assert classify["architecture"] == train["architecture"]
    assert set(classify["pretrain_overrides"]) - set(train["pretrain_overrides"]) == {"hold_out"}
    assert not set(train["pretrain_overrides"]) - set(classify["pretrain_overrides"])
    assert not set(classify["pretrain_overrides"]) - set(pretrain)
    knobs = {k for k, v in classify.items() if isinstance(v, (int, float, list))}
    for knob in (knobs & set(pretrain)) - {"imports", "initialize", "run"}:
        assert classify[knob] == pretrain[knob], knob
    assert set(config(name, "classify_inference")) - {"prediction"} <= set(classify)


@pytest.mark.parametrize("name", NAMES)
def test_structures_metadata_and_network_agree(name: str) -> None:
    structures = config(name, "train")["structures"]
    output = config(name, "metadata")["network_data_format"]["outputs"]["pred"]
    assert output["channel_def"] == {"0": "background", **{str(i): s for s, i in structures.items()}}
    assert output["num_channels"] == len(structures) + 1
    assert structures.items() <= ALL_STRUCTURES.items()
    parser = ConfigParser(config(name, "inference"))
    network = parser.get_parsed_content("network_def#out_channels")
    assert network == output["num_channels"]


@pytest.mark.parametrize(("bundle", "file"), [(b, f) for b in BUNDLES for f in b.glob("configs/structures_*.json")])
def test_label_maps_number_each_name_once(bundle: Path, file: Path) -> None:
    """Ready maps of public datasets, ids 1 to N; their number of structures is in the file's name or known."""
    content = json.loads(file.read_text(encoding="utf-8"), object_pairs_hook=_unique)
    assert list(content) == ["_summary_", "structures"]
    ids = list(content["structures"].values())
    known = {"btcv": 13, "flare22": 13}
    label_map = file.stem.removeprefix("structures_")
    assert ids == list(range(1, (known.get(label_map) or int(label_map.split("_")[-1])) + 1))
    assert check_structures(content["structures"])
    outputs = ConfigParser({**config(bundle.name, "inference"), **content}).get_parsed_content(
        "network_def#out_channels"
    )
    assert outputs == len(ids) + 1


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len({key for key, _ in pairs}) == len(pairs)
    return dict(pairs)


@pytest.mark.parametrize("name", NAMES)
def test_metadata_has_a_changelog_entry_for_its_version(name: str) -> None:
    """The newest one, at the top."""
    metadata = config(name, "metadata")
    versions = [[int(part) for part in version.split(".")] for version in metadata["changelog"]]
    assert versions == sorted(versions, reverse=True)
    assert metadata["version"] == next(iter(metadata["changelog"]))


@pytest.mark.parametrize("name", NAMES)
def test_metadata_fits_the_schema(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """MONAI's schema, when MONAI_META_SCHEMA points at it; else the fields that it requires."""
    metadata = config(name, "metadata")
    schema = os.environ.get("MONAI_META_SCHEMA")
    if schema:
        monkeypatch.chdir(REPOSITORY)
        monai.bundle.verify_metadata(meta_file=str(config_file(name, "metadata")), filepath=schema)
        jsonschema.validate(metadata, json.loads(Path(schema).read_text()))
    required = (
        "schema version monai_version pytorch_version numpy_version required_packages_version task description authors "
        "copyright network_data_format"
    )
    assert set(required.split()) <= set(metadata)


@pytest.mark.parametrize(("name", "file"), [(n, c) for n in NAMES for c in BASE_CONFIGS])
def test_monai_finds_every_property(
    name: str, file: str, phantom_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also from another working directory, where applications start."""
    monkeypatch.chdir(tmp_path)
    kind = "infer" if file == "inference" else "train"
    workflow = ConfigWorkflow(
        workflow_type=kind,
        config_file=str(config_file(name, file)),
        bundle_root=str(REPOSITORY / "bundles" / name),
        dataset_dir=str(phantom_dir / "imagesTs" if file == "inference" else phantom_dir),
        logging_file=False,
        init_id="nothing",  # initialize would run the pretraining
    )
    workflow.initialize()
    assert workflow.check_properties() == []


@pytest.mark.parametrize("name", NAMES)
def test_ids_that_monai_label_reads(name: str) -> None:
    parser = ConfigParser(config(name, "train"))
    for key in TRAIN_IDS:
        assert key in parser, key
    handlers = config(name, "train")["train"]["handlers"]
    assert all(isinstance(handler, dict) and "_target_" in handler for handler in handlers)
    assert config(name, "train")["train"]["trainer"]["train_handlers"] == "@train#handlers"
    assert not any(part in name for part in ("deepedit", "deepgrow", "detection", "classification"))


def test_no_generated_file_is_tracked() -> None:
    files = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    generated = re.findall(r"(?m)^.*(?:__pycache__|\.pyc|\.egg-info/|/runs/|\.pt|\.nii|\.nii\.gz)$", files)
    assert generated == []


@pytest.mark.parametrize("name", NAMES)
def test_every_stage_keeps_the_scans_of_a_patient_on_one_side(name: str, tmp_path: Path) -> None:
    for folder, scans in {"imagesTr": "12", "labelsTr": "12", "imagesUn": "3", "imagesTs": "4"}.items():
        (tmp_path / folder).mkdir()
        for patient in ("t",) if folder == "imagesTs" else "tabcdefgh":
            for scan in scans:
                (tmp_path / folder / f"{patient}_{scan}.nii.gz").touch()
    sides = {}
    for stage, items in (("pretrain", "cases"), ("train", "train#dataset#data"), ("train", "validate#dataset#data")):
        parser = ConfigParser()
        parser.read_config(str(config_file(name, stage)))
        parser.update({"dataset_dir": str(tmp_path), "patient": "^[^_]+"})
        sides[items] = {item["case"].partition("_")[0] for item in parser.get_parsed_content(items)}
    training, validation = sides["train#dataset#data"], sides["validate#dataset#data"]
    assert training | validation == set("abcdefgh")
    assert not training & validation
    assert sides["cases"] == training
    assert config(name, "train")["pretrain_overrides"]["patient"] == "@patient"

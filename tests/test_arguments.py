"""Mistyped overrides are refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from common.arguments import check_arguments
from common.errors import InputError


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "train.json"
    content = {
        "epochs": 5,
        "network_def": {"_target_": "Net", "width": 3},
        "train": {"trainer": {"_target_": "T"}, "handlers": [{"_target_": "H"}]},
    }
    path.write_text(json.dumps(content))
    return path


def run(config: object, *words: str) -> None:
    check_arguments(["/site/monai/bundle/__main__.py", "run", "--config_file", str(config), *words])


@pytest.mark.parametrize(
    "words",
    [
        ("--epochs", "3"),
        ("--epochs=3",),
        ("--network_def#width", "5"),
        ("--network_def#depth", "5"),  # a further argument of a component
        ("--train::trainer::max_epochs", "2"),
        ("--train#handlers#0#interval", "2"),
        ("--run_id", "run"),
        ("--meta_file", "x.json"),
    ],
)
def test_known_overrides_pass(config: Path, words: tuple[str, ...]) -> None:
    run(config, *words)


def test_unknown_override_names_the_nearest_known(config: Path) -> None:
    with pytest.raises(InputError, match=r"--epoch: no such setting.*Did you mean --epochs\?"):
        run(config, "--epoch", "3")


@pytest.mark.parametrize("word", ["--widht", "--train#trainr#max_epochs", "--train#new", "--train#handlers#7#interval"])
def test_unknown_overrides_are_refused(config: Path, word: str) -> None:
    with pytest.raises(InputError, match="no such setting"):
        run(config, word, "3")


def test_several_config_files_are_merged(config: Path, tmp_path: Path) -> None:
    overlay = tmp_path / "overlay.json"
    overlay.write_text(json.dumps({"section": "val"}))
    run([str(config), str(overlay)], "--section", "test")


def test_other_programs_are_left_alone() -> None:
    check_arguments(["pytest", "run", "--anything", "1"])

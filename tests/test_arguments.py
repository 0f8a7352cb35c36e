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


@pytest.mark.parametrize(("word", "python"), [("true", "True"), ("false", "False"), ("null", r"'\$None'")])
def test_words_of_json_would_be_text_and_are_refused(config: Path, word: str, python: str) -> None:
    """``not "false"`` is ``False``: the setting would stay on."""
    for words in (("--epochs", word), (f"--epochs={word}",)):
        with pytest.raises(InputError, match=f"--epochs {word}: .*Write --epochs {python}"):
            run(config, *words)
    run(config, "--epochs", python)


def test_several_config_files_are_merged(config: Path, tmp_path: Path) -> None:
    overlay = tmp_path / "overlay.json"
    overlay.write_text(json.dumps({"section": "val"}))
    run([str(config), str(overlay)], "--section", "test")


def test_other_programs_are_left_alone() -> None:
    check_arguments(["pytest", "run", "--anything", "1"])


@pytest.fixture
def components(tmp_path: Path) -> Path:
    path = tmp_path / "components.json"
    content = {
        "method": {"_target_": "common.methods.isd_mae.ISDMAE", "patch_mask_ratio": 0.5},
        "sgd": {"_target_": "torch.optim.SGD", "lr": 1},
        "handlers": [{"_target_": "ValidationHandler", "interval": 2}],
        "loader": {"_target_": "DataLoader", "batch_size": 2},
        "elsewhere": {"_target_": "not.installed.Here", "a": 1},
        "reference": {"_target_": "$torch.nn.Linear", "a": 1},
    }
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    "words",
    [
        ("--sgd#momentum", "0.9"),
        ("--sgd#_disabled_", "True"),
        ("--handlers#0#epoch_level", "False"),
        ("--loader#pin_memory", "True"),  # MONAI's takes any argument
        ("--elsewhere#b", "1"),
        ("--reference#b", "1"),
        ("--sgd#_target_", "torch.optim.Adam", "--sgd#amsgrad", "True"),
        ("--sgd", "{'_target_': 'torch.optim.Adam'}", "--sgd#amsgrad", "True"),
    ],
)
def test_new_arguments_that_a_component_takes_pass(components: Path, words: tuple[str, ...]) -> None:
    run(components, *words)


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("method#rule", "It takes|Did you mean --method#"),
        ("method#patch_mask_rati", r"Did you mean --method#patch_mask_ratio\?"),
        ("sgd#momentun", r"Did you mean --sgd#momentum\?"),
        ("handlers#0#epoch_levl", r"Did you mean --handlers#0#epoch_level\?"),  # a short name of MONAI's
    ],
)
def test_arguments_that_a_component_does_not_take_are_refused(components: Path, word: str, hint: str) -> None:
    with pytest.raises(InputError, match=f"--{word}: no such setting.*({hint})"):
        run(components, f"--{word}", "x")


def with_args_file(path: Path, content: object, *words: str) -> None:
    path.write_text(json.dumps(content))
    check_arguments(["/site/monai/bundle/__main__.py", "run", "--args_file", str(path), *words])


def test_the_args_file_is_checked_too(config: Path, tmp_path: Path) -> None:
    path = tmp_path / "args.json"
    with_args_file(path, {"config_file": str(config), "epochs": 3, "network_def#width": 5})
    with_args_file(path, {"config_file": [str(config)], "run_id": "run"}, "--epochs", "3")
    with_args_file(path, {"config_file": "elsewhere.json", "epochs": 3}, "--config_file", str(config))
    with pytest.raises(InputError, match=r"--epoch: no such setting.*Did you mean --epochs\?"):
        with_args_file(path, {"config_file": str(config), "epoch": 3})
    with pytest.raises(InputError, match=r"--epoch: no such setting"):
        with_args_file(path, {"epoch": 3}, "--config_file", str(config))
    with pytest.raises(InputError, match=r"--epoch: no such setting"):
        with_args_file(path, {"config_file": str(config)}, "--epoch", "3")


def test_an_args_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"args\.json: not a map of arguments"):
        with_args_file(tmp_path / "args.json", [1])
    (tmp_path / "broken.json").write_text("{")
    for name in ("missing.json", "broken.json"):
        with pytest.raises(InputError, match=rf"{name}: cannot be read"):
            check_arguments(["/site/monai/bundle/__main__.py", "run", "--args_file", str(tmp_path / name)])

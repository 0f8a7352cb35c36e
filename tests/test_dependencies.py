"""Which way imports go, read from the source."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import common

PACKAGE = Path(common.__file__).parent
REPOSITORY = Path(__file__).resolve().parents[1]

# room -> rooms of `common` it may import; files directly in `common` that are as basic as errors may be used anywhere
ALLOWED = {
    "masking": {"masking"},
    "losses": {"losses", "masking"},
    "networks": {"networks", "masking"},
    "methods": {"methods", "networks", "masking", "losses"},
    "transforms": {"transforms", "masking", "data"},
    "data": {"data", "transforms"},
}
BASIC = {"errors", "files"}


def imported(path: Path) -> set[str]:
    """First and second part of every import."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module)
        elif isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
    return {".".join(name.split(".")[:2]) for name in names}


@pytest.mark.parametrize("room", ALLOWED)
def test_rooms_import_only_what_lies_below_them(room: str) -> None:
    files = sorted((PACKAGE / room).rglob("*.py"))
    assert files
    for path in files:
        rooms = {name.split(".")[1] for name in imported(path) if name.startswith("common.")}
        assert rooms <= ALLOWED[room] | BASIC, path


@pytest.mark.parametrize("room", ["masking", "losses", "networks"])
def test_pure_rooms_do_not_import_ignite(room: str) -> None:
    for path in (PACKAGE / room).rglob("*.py"):
        assert not any(name.startswith("ignite") for name in imported(path)), path


def test_masking_is_pure_torch() -> None:
    for path in (PACKAGE / "masking").rglob("*.py"):
        assert not any(name.startswith("monai") for name in imported(path)), path


def test_nothing_imports_bundles_or_scripts() -> None:
    for path in PACKAGE.rglob("*.py"):
        assert not any(name.split(".")[0] in {"bundles", "scripts", "tests"} for name in imported(path)), path


def test_the_imported_common_is_ours() -> None:
    """`common` is a name that other distributions use too."""
    assert PACKAGE == REPOSITORY / "common"
    assert common.__version__

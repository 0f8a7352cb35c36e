"""Links and pictures of the documentation exist, and no command says what the command line refuses."""

from __future__ import annotations

import re

import pytest

from tests.bundles.discovery import REPOSITORY

PAGES = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md"), *REPOSITORY.glob("bundles/*/docs/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=[str(p.relative_to(REPOSITORY)) for p in PAGES])
def test_links_lead_somewhere(page) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=[str(p.relative_to(REPOSITORY)) for p in PAGES])
def test_commands_give_no_json_words(page) -> None:
    """MONAI takes them for texts: True, False and '$None' are written."""
    assert re.findall(r"--\S+[ =](?:true|false|null)\b", page.read_text(encoding="utf-8")) == []

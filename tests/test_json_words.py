"""``python -m common``: JSON's words are refused, where they would turn a switch on."""

from __future__ import annotations

import pytest

from common import __main__
from common.errors import InputError
from common.json_words import refuse_json_words


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["compare", "ct", "--dry_run", "false"], "--dry_run false: would be a text. Write --dry_run False."),
        (["compare", "ct", "--dry_run=true"], "--dry_run=true: would be a text. Write --dry_run=True."),
        (["compare", "--steps", "null"], "--steps null: would be a text. Write --steps None."),
    ],
)
def test_refused_with_what_to_write(words: list[str], message: str) -> None:
    with pytest.raises(InputError) as caught:
        refuse_json_words(words)
    assert str(caught.value) == message


def test_everything_else_passes() -> None:
    refuse_json_words(["check", "false_alarms", "--structures={'true': 1}", "--dry_run", "False", "--dry_run"])


def test_the_commands_refuse_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["common", "info", "--bundles_dir", "false"])
    with pytest.raises(SystemExit, match="error: --bundles_dir false"):
        __main__.main()

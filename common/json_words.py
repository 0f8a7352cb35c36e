"""JSON's words on a command line that reads Python: they would be texts, and a text counts as yes."""

from __future__ import annotations

from common.errors import InputError

PYTHON_WORDS = {"true": "True", "false": "False", "null": "None"}


def refuse_json_words(words: list[str]) -> None:
    """Refuse ``true``, ``false`` and ``null``, alone or as ``--name=true``.

    Raises:
        InputError: naming what to write instead.
    """
    name = ""
    for word in words:
        flag, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        if value in PYTHON_WORDS:
            given = word if equals or not name else f"{name} {word}"
            meant = f"{given.removesuffix(value)}{PYTHON_WORDS[value]}"
            raise InputError(f"{given}: would be a text. Write {meant}.")
        name = flag

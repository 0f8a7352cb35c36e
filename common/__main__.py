"""``python -m common COMMAND``: see ``python -m common --help``."""

from __future__ import annotations

import sys

import fire

from common.cli import COMMANDS
from common.errors import InputError
from common.json_words import refuse_json_words


def main() -> None:
    """Run one command; what a user's input causes ends with one line and exit code 1."""
    try:
        refuse_json_words(sys.argv[1:])
        fire.Fire(COMMANDS, name="python -m common")
    except InputError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()

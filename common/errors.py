"""Errors that a user's files or arguments cause, shown as one clear line instead of a traceback."""

from __future__ import annotations

import sys
import traceback
from types import TracebackType

_NOT_BUILT = "Failed to instantiate component 'common."  # what MONAI says of a component in a config


class InputError(ValueError):
    """A file or an argument of the user's is at fault.

    The message reads ``<file or argument>: <what is wrong>. <what to do>.``
    """


def input_error_message(error: BaseException) -> str | None:
    """Message of the :class:`InputError` behind ``error``, or ``None`` when the program itself is at fault.

    MONAI wraps what its transforms raise and data loader workers turn exceptions into text, so both the chain of causes
    and the text of the message are searched. What a component of this package refuses to be constructed with, by a
    ``ValueError``, is a setting of the user's too.
    """
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        if isinstance(current, InputError):
            return str(current)
        for line in str(current).splitlines():
            marker, _, message = line.partition(f"{InputError.__module__}.{InputError.__qualname__}: ")
            if message and not marker.strip():
                return message
        if str(current).startswith(_NOT_BUILT) and type(current.__cause__) is ValueError:
            return str(current.__cause__)
        current = current.__cause__ or current.__context__
    return None


def install_excepthook() -> None:
    """Let the interpreter end with one line and exit code 1 when a user's input is at fault.

    Other exceptions keep their traceback: they are defects to report.
    """

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        message = input_error_message(error)
        if message is None:
            traceback.print_exception(kind, error, trace)
        else:
            sys.stderr.write(f"error: {message}\n")

    sys.excepthook = hook

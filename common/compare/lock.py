"""A file that only one process works on, although several were started on the same folder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: start one comparison at a time there
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def locked(path: Path) -> Iterator[int | None]:
    """An open file that only one process has locked, ``None`` when another one has; -1 where there are no locks.

    The kernel lets go of the lock when the last process that holds the file ends, however it ends.
    """
    if fcntl is None:
        yield -1
        return
    with open(path, "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        yield file.fileno()

"""``classes.csv`` of a folder of phantoms: which kinds of lesion each case has."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.data.classes import CLASSES_FILE, read_classes, write_classes
from common.data.phantom.lesions import KINDS
from common.errors import InputError


class LesionClasses:
    """The table while volumes are written beside it.

    A line is removed before its volume is written anew and added afterwards, so that it never speaks of another volume
    than the one that is there, wherever the writing is interrupted.

    Args:
        folder: of the phantoms.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / CLASSES_FILE
        self.rows: dict[str, Sequence[float]] = {}
        try:
            table = read_classes(folder)
        except InputError:
            return  # not there, or not written by this class: every line is made anew
        if table.names == KINDS:
            self.rows = dict(table.labels)

    def __contains__(self, case: str) -> bool:
        return case in self.rows

    def remove(self, case: str) -> None:
        """Forget a case whose volume is about to change."""
        if self.rows.pop(case, None) is not None:
            self._write()

    def add(self, case: str, lesions: Collection[Mapping[str, Any]]) -> None:
        """Note the lesions of a case, as :func:`~common.data.phantom.lesions.draw_lesions` describes them."""
        present = {lesion["type"] for lesion in lesions}
        self.rows[case] = [float(kind in present) for kind in KINDS]
        self._write()

    def keep(self, cases: Collection[str]) -> None:
        """Forget all other cases."""
        if set(self.rows) - set(cases):
            self.rows = {case: row for case, row in self.rows.items() if case in cases}
            self._write()

    def _write(self) -> None:
        if self.rows:
            write_classes(self.path, KINDS, self.rows)
        else:
            self.path.unlink(missing_ok=True)

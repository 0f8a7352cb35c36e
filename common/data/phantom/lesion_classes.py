"""``classes.csv`` of a folder of phantoms: which kinds of lesion each case has."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.data.classes import CLASSES_FILE, read_classes, write_classes
from common.data.phantom.lesions import KINDS
from common.errors import InputError

logger = logging.getLogger(__name__)

PREFIX = "phantom_"  # of every phantom's name


class LesionClasses:
    """The table while volumes are written beside it.

    A line is removed before its volume is written anew and added afterwards, so that it never speaks of another volume
    than the one that is there, wherever the writing is interrupted. What a user wrote stays: lines of other cases, and
    a file with other columns as a whole.

    Args:
        folder: of the phantoms.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / CLASSES_FILE
        self.rows: dict[str, Sequence[float]] = {}
        self.is_users = False
        if not self.path.exists():
            return  # every line is made anew
        try:
            table = read_classes(folder)
        except InputError as error:
            self.is_users = True
            logger.warning("%s Until then it is left as it is.", error)
            return
        self.is_users = table.names != KINDS
        if self.is_users:
            logger.info("%s: left as it is, its columns are not those of the phantoms.", self.path)
        self.rows = dict(table.labels)

    def __contains__(self, case: str) -> bool:
        return self.is_users or case in self.rows

    def remove(self, case: str) -> None:
        """Forget a case whose volume is about to change.

        Raises:
            InputError: when the case is in a user's file, which would then speak of another volume.
        """
        if case not in self.rows:
            return
        if self.is_users:
            raise InputError(
                f"{self.path}: describes {case}, which is about to be replaced by another phantom, and was not written "
                "with it. Move the file away, or write these phantoms into another folder."
            )
        del self.rows[case]
        self._write()

    def add(self, case: str, lesions: Collection[Mapping[str, Any]]) -> None:
        """Note the lesions of a case, as :func:`~common.data.phantom.lesions.draw_lesions` describes them."""
        present = {lesion["type"] for lesion in lesions}
        self.rows[case] = [float(kind in present) for kind in KINDS]
        self._write()

    def keep(self, cases: Collection[str]) -> None:
        """Forget all other phantoms."""
        gone = {case for case in self.rows if case.startswith(PREFIX) and case not in cases}
        if gone:
            self.rows = {case: row for case, row in self.rows.items() if case not in gone}
            self._write()

    def _write(self) -> None:
        if self.is_users:
            return
        if self.rows:
            write_classes(self.path, KINDS, self.rows)
        else:
            self.path.unlink(missing_ok=True)

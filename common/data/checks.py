"""What a folder of CT holds, and every file in it that would fail: behind ``python -m common check``.

The checks of single files are in :mod:`common.data.headers` (nothing decoded) and :mod:`common.data.contents`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from common.data.cases import Case, find_cases, label_names
from common.data.contents import check_label_values, check_same_grid, check_volume, read_volume
from common.data.datalist import check_names, known_ids
from common.errors import InputError

_PERCENTILES = (0.5, 50, 99.5)
_IMAGE_BYTES, _LABEL_BYTES = 2, 1  # int16 HU, uint8 channels: what the bundles cache


@dataclass(frozen=True)
class CaseReport:
    """One case: its grid, HU values at the percentiles 0.5, 50 and 99.5, voxels per label id, bytes when cached."""

    id: str
    subset: str
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    hu: tuple[float, ...]
    voxels: dict[int, int] | None
    annotated: tuple[int, ...] | None
    cache_bytes: int


@dataclass
class FolderReport:
    """What :func:`inspect_folder` found.

    Attributes:
        cases: those whose files are all fine.
        failures: one message per file that cannot be used.
        notes: what is wrong with the arguments rather than with a file.
    """

    folder: str
    spacing: tuple[float, ...]
    structures: dict[str, int]
    cases: list[CaseReport] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def cache_bytes(self) -> int:
        """Memory that caching all volumes and labels takes, on the grid of ``spacing``."""
        return sum(case.cache_bytes for case in self.cases)

    def lines(self) -> list[str]:
        """The report as text."""
        counts = {s: sum(c.subset == s for c in self.cases) for s in ("train", "test", "unlabelled")}
        summary = ", ".join(f"{n} {subset}" for subset, n in counts.items())
        rows = [_row("case", "subset", "shape", "spacing (mm)", "HU 0.5 / 50 / 99.5 %", "label ids (voxels)")]
        rows += [self._case_row(case) for case in self.cases]
        grid, mib = _join(self.spacing, " x ", "g"), self.cache_bytes / 2**20
        memory = f"Cached at {grid} mm (int16 image, uint8 label): {mib:.0f} MiB"
        failed = [f"{len(self.failures)} file(s) would fail:", *(f"  {text}" for text in self.failures)]
        return [
            f"{self.folder}: {len(self.cases)} usable cases ({summary})",
            *rows,
            *self._structure_lines(),
            memory,
            *self.notes,
            *(failed if self.failures else ["No file would fail."]),
        ]

    def _case_row(self, case: CaseReport) -> str:
        labels = "no label" if case.voxels is None else ", ".join(f"{i} ({n})" for i, n in case.voxels.items() if i)
        shape, spacing = _join(case.shape, " x ", "d"), _join(case.spacing, " x ", ".3g")
        return _row(case.id, case.subset, shape, spacing, _join(case.hu, " / ", ".0f"), labels or "empty label")

    def _structure_lines(self) -> list[str]:
        labelled = [c for c in self.cases if c.voxels is not None]
        lines = []
        for name, i in self.structures.items():
            annotated = [c for c in labelled if c.annotated is None or i in c.annotated]
            present = sum(bool(c.voxels and c.voxels.get(i)) for c in annotated)
            lines.append(f"  {name} ({i}): annotated in {len(annotated)} cases, present in {present}")
        return ["Structures:", *lines] if labelled else []


def inspect_folder(
    dataset_dir: str | os.PathLike, *, structures: Mapping[str, int], spacing: Sequence[float]
) -> FolderReport:
    """Check every image and label of a folder completely; a bad file is reported and the next one looked at.

    Args:
        dataset_dir: see :mod:`common.data.cases`.
        structures: {name: id} that shall be segmented.
        spacing: mm per axis (RAS) of the grid on which volumes would be cached; 0 or less keeps a scan's own.

    Raises:
        InputError: folder missing, no images, or an unusable ``dataset.json``.
    """
    report = FolderReport(os.fspath(dataset_dir), tuple(float(s) for s in spacing), dict(structures))
    names = label_names(dataset_dir)
    ids = known_ids(dataset_dir, structures)
    try:
        check_names(structures, names, dataset_dir)
    except InputError as error:
        report.notes.append(str(error))
    for case in find_cases(dataset_dir):
        inspected = _inspect_case(case, report, ids, names)
        if inspected is not None:
            report.cases.append(inspected)
    return report


def _inspect_case(
    case: Case, report: FolderReport, ids: Sequence[int], names: Mapping[int, str] | None
) -> CaseReport | None:
    """Report of a case whose files are all fine; otherwise ``None``, and the report has got their failures."""
    n_failures = len(report.failures)
    image: tuple[np.ndarray, np.ndarray] | None = None
    voxels: dict[int, int] | None = None
    try:
        image = read_volume(case.image)
        check_volume((*image, case.image))
    except InputError as error:
        report.failures.append(str(error))
    if case.label is not None:
        try:
            label, label_affine = read_volume(case.label)
            voxels = check_label_values(label, case.label, ids)
            if image is not None:
                check_same_grid((label.shape, label_affine, case.label), (image[0].shape, image[1], case.image))
        except InputError as error:
            report.failures.append(str(error))
    if image is None or len(report.failures) > n_failures:
        return None
    array, affine = image
    step = max(1, math.ceil((array.size / 10**6) ** (1 / 3)))
    hu = np.percentile(array[::step, ::step, ::step], _PERCENTILES)
    n = voxels_at(array.shape, affine, report.spacing)
    return CaseReport(
        id=case.id,
        subset=case.subset,
        shape=array.shape,
        spacing=tuple(float(s) for s in np.linalg.norm(affine[:3, :3], axis=0)),
        hu=tuple(float(v) for v in hu),
        voxels=voxels,
        annotated=case.annotated if case.annotated is not None or names is None else tuple(names),
        cache_bytes=n * (_IMAGE_BYTES + (_LABEL_BYTES if case.label is not None else 0)),
    )


def voxels_at(shape: Sequence[int], affine: np.ndarray, spacing: Sequence[float]) -> int:
    """Voxels of the volume after reorientation to RAS and resampling to ``spacing``."""
    directions = np.abs(affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0))
    own = np.linalg.norm(affine[:3, :3], axis=0)
    n = 1
    for axis in range(3):
        target = spacing[int(directions[:, axis].argmax())]
        n *= shape[axis] if target <= 0 else round((shape[axis] - 1) * own[axis] / target + 1)
    return n


def _join(values: Sequence[float], separator: str, form: str) -> str:
    return separator.join(f"{v:{form}}" for v in values)


def _row(case: str, subset: str, shape: str, spacing: str, hu: str, labels: str) -> str:
    return f"  {case:<28} {subset:<10} {shape:<16} {spacing:<19} {hu:<22} {labels}"

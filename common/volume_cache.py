"""The volumes that a training keeps in memory, and a word beforehand where they will not all be kept."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.data import CacheDataset
from monai.transforms import Transform

from common.data.archive import is_prepared
from common.data.checks import voxels_at
from common.data.headers import check_header
from common.distributed import local_processes, rank

logger = logging.getLogger(__name__)

_HEADERS = 16  # as many are read to estimate the size of all volumes
_ADVICE = (
    "`python -m common prepare DIR --out ARCHIVE` resamples them once; with --dataset_dir ARCHIVE crops are read from "
    "there, and no volume is decoded or kept in memory (docs/prepare.md)."
)


class VolumeCache(CacheDataset):
    """MONAI's ``CacheDataset``, which says before it starts when volumes will be decoded in every epoch or not fit.

    Args:
        data: items of :mod:`common.data.datalist`; of those of a prepared archive only handles are kept.
        transform: :func:`common.recipes.cached_volume` and what is random.
        spacing: mm of the grid on which volumes are kept.
        cache_rate: share of them that is kept.
        options: further ones of ``CacheDataset``.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        transform: Transform,
        *,
        spacing: Sequence[float],
        cache_rate: float = 1.0,
        **options: Any,
    ) -> None:
        if rank() == 0 and (message := cache_advice(data, spacing=spacing, cache_rate=cache_rate)):
            logger.warning("%s", message)
        super().__init__(data=data, transform=transform, cache_rate=cache_rate, **options)


def cache_advice(
    items: Sequence[Mapping[str, Any]],
    *,
    spacing: Sequence[float],
    cache_rate: float = 1.0,
    available: int | None = None,
) -> str | None:
    """What preparing the volumes would save; ``None`` where they are prepared or all fit into memory.

    Args:
        items: with ``image`` and maybe ``label``.
        spacing: mm of the grid on which volumes are kept.
        cache_rate: share of them that is kept.
        available: bytes. Default: this machine's.
    """
    files = [item for item in items if isinstance(item["image"], str | os.PathLike) and not is_prepared(item["image"])]
    if not files:
        return None
    sample = files[:: -(-len(files) // _HEADERS)]
    n_bytes = sum(_cached_bytes(item, spacing) for item in sample) / len(sample) * len(files)
    size = f"{len(files)} volumes take up to {n_bytes / 2**30:.1f} GiB when they are all kept in memory"
    if cache_rate < 1:
        n = len(files) - int(len(files) * cache_rate)
        return f"{size}; cache_rate {cache_rate:g} has {n} of them decoded again whenever a crop is drawn. {_ADVICE}"
    free = available_memory() if available is None else available
    needed = n_bytes * local_processes()
    if free is None or needed <= free:
        return None
    per = f", by each of {local_processes()} processes" if local_processes() > 1 else ""
    return f"{size}{per}; {free / 2**30:.1f} GiB are free. Lower cache_rate, or prepare them. {_ADVICE}"


def _cached_bytes(item: Mapping[str, Any], spacing: Sequence[float]) -> int:
    header = check_header(item["image"])
    return voxels_at(header.shape, header.affine, spacing) * (3 if item.get("label") is not None else 2)


def available_memory() -> int | None:
    """Bytes that may still be used without swapping: the machine's and, in a container, the container's."""
    try:
        found = re.search(r"MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text(encoding="ascii"))
    except OSError:
        return None  # not Linux
    free = None if found is None else 1024 * int(found[1])
    limit, used = (_number(Path("/sys/fs/cgroup") / name) for name in ("memory.max", "memory.current"))
    if free is None or limit is None or used is None:
        return free
    return min(free, max(limit - used, 0))


def _number(path: Path) -> int | None:
    """Content of a control file; ``None`` where there is none or it says ``max``."""
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None

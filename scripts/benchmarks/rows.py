"""What a row is, and how it is measured."""

from __future__ import annotations

import ctypes
import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass
class Case:
    """Two ways to the same result, each a function without arguments; how far they agree, where that is asked."""

    ours: Callable[[], object]
    alternative: Callable[[], object]
    alternative_name: str
    agreement: Callable[[], str] | None = None


@dataclass
class Result:
    """A measured row; times are medians in milliseconds."""

    name: str
    description: str
    alternative: str
    ours_ms: float
    alternative_ms: float
    ratio: float
    repeats: int
    ours_mb: float | None
    """How far memory grew in our first run; ``None`` where the system does not tell."""
    alternative_mb: float | None
    agreement: str


ROWS: dict[str, Callable[[torch.device], Case]] = {}
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def row(make: Callable[[torch.device], Case]) -> Callable[[torch.device], Case]:
    """Register a row under the name of its function."""
    ROWS[make.__name__] = make
    return make


def measure(name: str, *, device: torch.device, repeats: int, clock: str = "wall") -> Result:
    """Time one row: one warm-up of each, then both in turn."""
    case = ROWS[name](device)
    ours_mb, alternative_mb = peak_growth(case.ours, device), peak_growth(case.alternative, device)
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for run, kept in zip((case.ours, case.alternative), times, strict=True):
            kept.append(milliseconds(run, device, clock))
    ours, alternative = map(statistics.median, times)
    return Result(
        name=name,
        description=(ROWS[name].__doc__ or name).strip(),
        alternative=case.alternative_name,
        ours_ms=ours,
        alternative_ms=alternative,
        ratio=alternative / ours,
        repeats=repeats,
        ours_mb=ours_mb,
        alternative_mb=alternative_mb,
        agreement="" if case.agreement is None else case.agreement(),
    )


def milliseconds(run: Callable[[], object], device: torch.device, clock: str = "wall") -> float:
    """One call, to the end of what it started on a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = CLOCKS[clock]()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return 1000 * (CLOCKS[clock]() - start)


def peak_growth(run: Callable[[], object], device: torch.device) -> float | None:
    """Megabytes by which memory grew at its peak in ``run``: the GPU's, or the process's on Linux."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return (torch.cuda.max_memory_allocated(device) - before) / 1e6
    reset = Path("/proc/self/clear_refs")
    if not reset.exists():
        run()
        return None
    # what earlier rows left to the allocator would hide what this one needs
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
    if trim is not None:
        trim(0)
    reset.write_text("5")  # the peak starts again from what there is
    start = _status("VmRSS")
    run()
    return _status("VmHWM") - start


def _status(entry: str) -> float:
    """Megabytes that Linux reports for this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(entry)) * 1024 / 1e6


def table(results: list[Result]) -> str:
    """Results as a Markdown table."""
    lines = [
        "| row | what | ours, ms | ours, MB | alternative | its ms | its MB | ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in results:
        ours, theirs = ("" if mb is None else f"{mb:.0f}" for mb in (r.ours_mb, r.alternative_mb))
        cells = (r.name, r.description, f"{r.ours_ms:.1f}", ours, r.alternative, f"{r.alternative_ms:.1f}", theirs)
        lines.append(f"| {' | '.join(cells)} | {r.ratio:.2f} |")
    return "\n".join([*lines, *(f"\n{r.name}: {r.agreement}" for r in results if r.agreement)]) + "\n"

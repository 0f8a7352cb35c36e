"""Time what this project replaces: ours against a named alternative, alternated in one process, medians.

    python scripts/benchmark.py                     every row
    python scripts/benchmark.py ssim --repeats 9    one row
    python scripts/benchmark.py 'tax_*_64_*'        the rows of a pattern
    python scripts/benchmark.py --json times.json   all of them, and a file

Ratios carry over between machines, milliseconds do not. One thread, unless ``--threads`` says otherwise; start it with
``OMP_NUM_THREADS=1``. On a busy machine ``--clock cpu`` counts the processor's time for this process instead of the
wall clock's. A new row is one function in a file of ``benchmarks/`` that makes its inputs and returns a
:class:`benchmarks.rows.Case`; its name is the row's name and its docstring the row's description.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import sys
from dataclasses import asdict
from fnmatch import filter as matching

import monai
import torch
from benchmarks import clustering, data, inference, losses, networks, steps, tax
from benchmarks.rows import CLOCKS, ROWS, Result, measure, table

TOPICS = (losses, clustering, networks, steps, tax, data, inference)  # importing them registered their rows


def main(arguments: list[str] | None = None) -> list[Result]:
    """Measure the rows that the command line names."""
    parser = argparse.ArgumentParser(description="Ours against a named alternative, alternated, medians.")
    parser.add_argument(
        "rows", nargs="*", metavar="row", help=f"names or patterns of: {', '.join(ROWS)}; all when none is given"
    )
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of each (default: 5)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch (default: 1)")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="wall, or cpu: this process's processor time")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--json", metavar="FILE", help="also write the numbers and the versions there")
    chosen = parser.parse_args(arguments)
    names = [name for pattern in chosen.rows or ["*"] for name in matching(ROWS, pattern)]
    unknown = [pattern for pattern in chosen.rows if not matching(ROWS, pattern)]
    if unknown:
        parser.error(f"no row named {', '.join(unknown)}; there are {', '.join(ROWS)}")
    if chosen.repeats < 1 or chosen.threads < 1:
        parser.error("--repeats and --threads must be at least 1")
    device = torch.device(chosen.device)
    if chosen.clock == "cpu" and device.type != "cpu":
        parser.error("--clock cpu does not see a GPU's time; leave it out")

    logging.basicConfig(format="%(message)s")
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    results = []
    for name in names:
        results.append(measure(name, device=device, repeats=chosen.repeats, clock=chosen.clock))
        last = results[-1]
        sys.stderr.write(f"{name}: {last.ours_ms:.1f} ms, ratio {last.ratio:.2f}\n")
    sys.stdout.write(table(results))
    if chosen.json:
        machine = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
        report = {
            "torch": torch.__version__,
            "monai": monai.__version__,
            "machine": machine,
            "threads": chosen.threads,
            "clock": chosen.clock,
            "rows": [asdict(r) for r in results],
        }
        with open(chosen.json, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=2)
    return results


if __name__ == "__main__":
    main()

"""How much of a pretraining step several processes spend on each other.

    torchrun --standalone --nproc_per_node=2 scripts/scaling.py isd_mae --smoke
    torchrun --standalone --nproc_per_node=8 scripts/scaling.py anatomask

Every process, one per GPU or on CPU cores, makes steps with its own crops and exchanges gradients, as with
``multi_gpu_pretrain.json``, and in turn the same steps without exchange. Started without torchrun there is one process,
whose step is what others are compared with: with one core or GPU per process, the efficiency of N is its step over
that of N.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from benchmarks.rows import milliseconds
from benchmarks.tax import BUNDLES, stage_of

from common.distributed import barrier, destroy_process_group, init_process_group, local_device, wrap_model
from common.errors import install_excepthook


def main() -> None:
    """Command line."""
    install_excepthook()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", choices=sorted(path.parts[-3] for path in BUNDLES.glob("*/configs/pretrain.json")))
    parser.add_argument("--smoke", action="store_true", help="sizes of smoke.json in place of the full ones")
    parser.add_argument("--repeats", type=int, default=5, help="timed steps of each kind (default: 5)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads per process (default: 1)")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    device = local_device()
    processes = int(os.environ.get("WORLD_SIZE", 1))
    if processes > 1:
        init_process_group()
    try:
        step = pretraining_step(chosen.bundle, device, smoke=chosen.smoke, processes=processes)
        times: dict[bool, list[float]] = {True: [], False: []}
        for repeat in range(chosen.repeats + 1):
            for exchange in times:
                barrier()  # waiting for a late process is no exchange
                took = milliseconds(partial(step, exchange), device)
                if repeat:  # the first steps make buffers
                    times[exchange].append(took)
        with_exchange, without = (statistics.median(times[exchange]) for exchange in (True, False))
        report = {"processes": processes, "step_ms": round(with_exchange, 1), "without_exchange_ms": round(without, 1)}
        if int(os.environ.get("RANK", 0)) == 0:
            sys.stdout.write(json.dumps({"bundle": chosen.bundle, **report}) + "\n")
    finally:
        destroy_process_group()


def pretraining_step(bundle: str, device: torch.device, *, smoke: bool, processes: int) -> Callable[[bool], None]:
    """A step of a bundle's pretraining, with or without the exchange of gradients."""
    method, criterion, optimizer, inferer, image = stage_of(bundle, "pretrain", device, smoke=smoke)
    network: Any = wrap_model(method, device) if processes > 1 else method

    def step(exchange: bool) -> None:
        optimizer.zero_grad()
        alone = network.no_sync() if processes > 1 and not exchange else contextlib.nullcontext()
        with alone:
            criterion(inferer(image, network)).backward()
        optimizer.step()
        if hasattr(method, "update_teacher"):
            method.update_teacher()

    return step


if __name__ == "__main__":
    main()

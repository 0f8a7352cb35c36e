"""One process or several: the few places where it makes a difference."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist


def rank() -> int:
    """Rank of this process: torchrun's ``RANK``, 0 without it."""
    return int(os.environ.get("RANK", 0))


def local_processes() -> int:
    """Processes of the training on this machine: torchrun's ``LOCAL_WORLD_SIZE``, 1 without it."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def local_device() -> torch.device:
    """GPU of this process (torchrun's ``LOCAL_RANK``), or the CPU where there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    torch.cuda.set_device(device)
    return device


def init_process_group() -> None:
    """Join the process group of torchrun, once: both stages of a training call this."""
    if not dist.is_initialized():
        dist.init_process_group(backend="nccl" if torch.cuda.is_available() else "gloo")


def destroy_process_group() -> None:
    """Leave the process group, if one was joined."""
    if dist.is_initialized():
        dist.destroy_process_group()


def barrier() -> None:
    """Wait for the other processes, if there are any."""
    if dist.is_initialized():
        dist.barrier()


def wrap_model(model: torch.nn.Module, device: torch.device | str) -> torch.nn.Module:
    """``DistributedDataParallel`` around a model on ``device``; its gradients exist once, as what is exchanged."""
    device = torch.device(device)
    ids = [device] if device.type == "cuda" else None
    return torch.nn.parallel.DistributedDataParallel(model.to(device), device_ids=ids, gradient_as_bucket_view=True)

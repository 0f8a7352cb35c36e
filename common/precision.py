"""Which numbers the network computes in, on the device at hand."""

from __future__ import annotations

import contextlib

import torch

PRECISIONS = ("auto", "fp32", "bf16", "fp16")


def choose_precision(precision: str, device: torch.device | str) -> str:
    """Resolve ``"auto"``: bf16 where the hardware multiplies it natively, else fp16 on a GPU and fp32 on a CPU.

    Args:
        precision: one of ``auto``, ``fp32``, ``bf16``, ``fp16``.
        device: where the network runs.

    Raises:
        ValueError: for an unknown precision, or fp16 on a CPU, where it is slower than fp32 and overflows.
    """
    kind = torch.device(device).type
    if precision not in PRECISIONS:
        msg = f"precision is {precision!r}; choose one of {', '.join(PRECISIONS)}."
        raise ValueError(msg)
    if precision == "fp16" and kind == "cpu":
        msg = "precision 'fp16' needs a GPU; on a CPU choose 'bf16', 'fp32' or 'auto'."
        raise ValueError(msg)
    if precision != "auto":
        return precision
    if kind == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if kind == "cpu" and _cpu_multiplies_bf16() else "fp32"


def _cpu_multiplies_bf16() -> bool:
    # get_capabilities came with torch 2.10; before, fp32 is the safe answer.
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def autocast(precision: str, device: torch.device | str) -> contextlib.AbstractContextManager:
    """Autocast region for ``precision`` on ``device``; fp32 switches autocast off."""
    kind = torch.device(device).type
    resolved = choose_precision(precision, device)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(resolved)
    if dtype is None:
        return torch.autocast(kind, enabled=False)
    return torch.autocast(kind, dtype=dtype)

"""``torch.compile`` of a network where it is, or a message where there is no compiler."""

from __future__ import annotations

import functools
import logging

import torch
from torch import nn

logger = logging.getLogger(__name__)


def compile_network(network: nn.Module, device: torch.device | str, *, backend: str = "inductor") -> bool:
    """Compile ``network`` and its children in place, so that weights keep their names.

    Children too, because methods call an encoder and a decoder by themselves. What cannot be compiled runs as before;
    torch logs why.

    Args:
        network: changed in place, compiled when it is called.
        device: where it runs.
        backend: see ``torch.compile``.

    Returns:
        Whether there is a compiler. Where there is none, the reason is logged once and the network stays as it is.
    """
    if error := _error_of(backend, torch.device(device).type):
        logger.warning("compile: not on this machine (%s). The network runs as it is.", error)
        return False
    torch._dynamo.config.suppress_errors = True
    for part in (network, *network.children()):
        if not isinstance(part, nn.ModuleList):  # never called itself
            part.compile(backend=backend)
    return True


@functools.lru_cache(maxsize=8)
def _error_of(backend: str, device: str) -> str | None:
    """First line of what a compiler says to the smallest of programs; ``None`` when it runs."""
    x = torch.ones(8, device=device)
    try:
        torch.compile(_smallest, backend=backend)(x)
    except Exception as error:  # of torch, Triton, or whatever builds for them: they share no class
        return next(iter(str(error).splitlines()), "") or type(error).__name__
    return None


def _smallest(x: torch.Tensor) -> torch.Tensor:
    return x.sin() + 1

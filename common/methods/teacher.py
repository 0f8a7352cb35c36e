"""A slow copy of a network, the exponential moving average of its weights, that guides its training."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from common.masking.schedules import cosine, linear

RAMPS = {"linear": linear, "cosine": cosine}


class EMATeacher(nn.Module):
    """Exponential moving average of a student: never trained, always in evaluation mode, called without gradients.

    Unlike ``torch.optim.swa_utils.AveragedModel`` it asks the device nothing in an update, and its momentum may change
    with the training's progress (AnatoMask's and HPM's code: from 0.999 to 0.9999 over the first part, then constant).
    Floating-point parameters are averaged, buffers are copied.

    Args:
        student: copied as it is.
        momentum_start: share of the teacher that an update keeps, at progress 0.
        momentum_end: the same from ``ramp`` on.
        ramp: share of the training in which the momentum changes; 0 starts with ``momentum_end``.
        shape: of the change: ``"linear"``, or ``"cosine"`` (BYOL: from 0.996 to 1 over the whole training).

    Raises:
        ValueError: for a share outside [0, 1], a momentum outside [0, 1) at the start or [0, 1] at the end, or an
            unknown shape.
    """

    def __init__(
        self,
        student: nn.Module,
        *,
        momentum_start: float = 0.999,
        momentum_end: float = 0.9999,
        ramp: float = 0.25,
        shape: str = "linear",
    ) -> None:
        super().__init__()
        if not (0 <= momentum_start < 1 and 0 <= momentum_end <= 1 and 0 <= ramp <= 1):
            raise ValueError(
                f"momentum_start, momentum_end, ramp: got {momentum_start}, {momentum_end} and {ramp}. Give momenta of "
                "at least 0, below 1 at the start and at most 1 at the end, and a share of the training."
            )
        if shape not in RAMPS:
            raise ValueError(f"shape: got {shape!r}. Allowed are {', '.join(map(repr, RAMPS))}.")
        self.module = copy.deepcopy(student).requires_grad_(False).eval()
        self.momentum_start = momentum_start
        self.momentum_end = momentum_end
        self.ramp = ramp
        self.shape = shape

    def train(self, mode: bool = True) -> EMATeacher:  # noqa: ARG002
        """Stay in evaluation mode, whatever the student does."""
        return super().train(False)

    def momentum(self, progress: float) -> float:
        """Momentum at ``progress`` in [0, 1]."""
        if self.ramp == 0:
            return self.momentum_end
        return RAMPS[self.shape](progress / self.ramp, self.momentum_start, self.momentum_end)

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the averaged network makes of the arguments."""
        return self.module(*args, **kwargs)

    @torch.no_grad()
    def update(self, student: nn.Module, progress: float) -> None:
        """``teacher = m teacher + (1 - m) student``, once after every step of the optimizer."""
        own: list[Tensor] = list(self.module.parameters())
        new = [parameter.detach() for parameter in student.parameters()]
        torch._foreach_lerp_(own, new, 1 - self.momentum(progress))
        buffers = list(self.module.buffers())
        if buffers:
            torch._foreach_copy_(buffers, list(student.buffers()))

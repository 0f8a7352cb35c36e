"""AdamW in one kernel, whichever AdamW wrote the state that it continues with."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim.optimizer import ParamsT


class FusedAdamW(torch.optim.AdamW):
    """torch's AdamW with ``fused=True``: one pass over the parameters instead of a dozen.

    fp16's loss scaling works with it, and with gradients that :class:`common.handlers.clip_gradients.ClipGradients`
    unscaled before: the step then unscales no more, and it skips gradients that are not finite without asking the
    device. Checkpoints of an ordinary AdamW continue here. torch alone would return to the ordinary steps that they
    came from, which fail under loss scaling.

    Args:
        params: parameters, or groups of them such as :func:`common.optim.parameter_groups` makes.
        lr: learning rate.
        betas: decay of the running means of the gradient and of its square.
        eps: added to the denominator.
        weight_decay: decoupled weight decay.
    """

    def __init__(
        self,
        params: ParamsT,
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=True)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from the state of any AdamW, also where it laid the weights out in another memory format."""
        groups = [{**group, "fused": True, "foreach": None} for group in state_dict["param_groups"]]
        super().load_state_dict({**state_dict, "param_groups": groups})
        for parameter, state in self.state.items():
            for name, value in state.items():
                # on a CPU the kernel goes through memory, whatever the strides
                if value.shape == parameter.shape and value.stride() != parameter.stride():
                    state[name] = torch.empty_like(parameter, requires_grad=False).copy_(value)

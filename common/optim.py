"""Parameter groups of fine-tuning and pretraining."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from torch import nn


def parameter_groups(
    *modules: nn.Module,
    lr: float,
    weight_decay: float,
    body_lr_factor: float = 1.0,
    head: str | Collection[str] = "head",
) -> list[dict]:
    """Groups for a torch optimizer: body and head with learning rates of their own, no decay on norms and biases.

    Pretrained weights want smaller steps than a fresh head: a body at a quarter of the head's rate gained most in this
    project's trials, and a network from scratch wants the same rate everywhere.

    Args:
        modules: their parameters are optimised together (a method and its loss, or one network).
        lr: learning rate of the head, and of everything when ``body_lr_factor`` is 1.
        weight_decay: of weights with two or more axes; vectors (norms, biases, temperatures) get none.
        body_lr_factor: learning rate of the body over that of the head.
        head: name of the child module that counts as the head, or several names: all that starts fresh.

    Returns:
        Up to four groups: (body, head) x (decayed, not decayed).
    """
    if not body_lr_factor > 0:
        msg = f"body_lr_factor is {body_lr_factor}; it must be positive (1 = one learning rate for all)."
        raise ValueError(msg)
    heads = {head} if isinstance(head, str) else set(head)
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in _named_parameters(modules):
        key = (name.split(".")[0] in heads, parameter.ndim > 1)
        groups.setdefault(key, []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": lr if is_head else lr * body_lr_factor,
            "weight_decay": weight_decay if decayed else 0.0,
        }
        for (is_head, decayed), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


def layer_decay_groups(
    network: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    layer_decay: float,
    encoder: str = "vit",
    positions: str = "position_embeddings",
) -> list[dict]:
    """Groups for a torch optimizer: the deeper a layer of a pretrained transformer, the smaller its learning rate.

    Patch and position embedding are layer 0, the n blocks layers 1 to n, and what follows them layer n + 1, which has
    the whole rate; a layer l has ``layer_decay ** (n + 1 - l)`` of it (BEiT, MAE, SelfMedMAE).

    Args:
        network: has a transformer with ``patch_embedding`` and ``blocks``; everything else counts as its head.
        lr: learning rate of the head, and of everything when ``layer_decay`` is 1 (a network from scratch).
        weight_decay: of weights with two or more axes; vectors and positions get none.
        layer_decay: in (0, 1].
        encoder: name of the child module that is the transformer.
        positions: last part of the name of position embeddings.

    Returns:
        Up to two groups per layer: decayed, not decayed.

    Raises:
        ValueError: for a decay out of range.
    """
    if not 0 < layer_decay <= 1:
        msg = f"layer_decay: got {layer_decay}. Give a factor above 0 and at most 1 (1 = one learning rate for all)."
        raise ValueError(msg)
    last = len(network.get_submodule(f"{encoder}.blocks")) + 1  # type: ignore[arg-type]
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in _named_parameters([network]):
        parts = name.split(".")
        layer = last
        if parts[:2] == [encoder, "patch_embedding"]:
            layer = 0
        elif parts[:2] == [encoder, "blocks"]:
            layer = 1 + int(parts[2])
        decayed = parameter.ndim > 1 and parts[-1] != positions
        groups.setdefault((layer, decayed), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": lr * layer_decay ** (last - layer),
            "weight_decay": weight_decay if decayed else 0.0,
        }
        for (layer, decayed), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


def _named_parameters(modules: Iterable[nn.Module]) -> Iterable[tuple[str, nn.Parameter]]:
    for module in modules:
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                yield name, parameter

"""Tiny DINO and SwAV, and an image for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from common.methods.dino import DINO, DINOLoss
from common.methods.swav import SwAV, SwAVLoss
from common.networks.mit_unet import MixTransformerUNet

METHODS = {"dino": DINO, "swav": SwAV}
K, E = 6, 8


def network(spatial_dims: int = 2) -> MixTransformerUNet:
    torch.manual_seed(0)
    size = {"variant": "b0", "stem_stride": 2, "decoder_channels": (8, 8, 4, 4), "drop_path_rate": 0.0}
    return MixTransformerUNet(spatial_dims=spatial_dims, out_channels=3, **size)


def method(name: str, spatial_dims: int = 2, **changes: Any) -> Any:
    small = {"embedding_features": E, "hidden_features": 16, "n_prototypes": K, "local_views": 3}
    return METHODS[name](network(spatial_dims), **{**small, **changes})


def loss_of(name: str) -> nn.Module:
    return DINOLoss(n_prototypes=K) if name == "dino" else SwAVLoss(queue_size=4, embedding_features=E)


def image(*shape: int) -> torch.Tensor:
    return torch.rand(shape or (2, 3, 32, 64), generator=torch.Generator().manual_seed(1))

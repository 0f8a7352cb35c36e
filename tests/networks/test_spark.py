"""SparK's decoder on STU-Net's masked encoder."""

from __future__ import annotations

import pytest
import torch

from common.networks.spark import Densify, SparK
from common.networks.stunet import STUNet

SMALL = {"features": [4, 6, 8, 8, 8, 8]}


@pytest.mark.parametrize(
    ("size", "decoder", "densify"), [("S", 9.10, 0.58), ("B", 36.39, 2.33), ("L", 145.54, 9.30), ("H", 327.46, 20.91)]
)
def test_parameters(size, decoder, densify):
    """METHODS 3.4; the densify path of stride 1, which nothing reads, is left out."""
    with torch.device("meta"):
        network = SparK(size=size)
    assert round(sum(p.numel() for m in (network.decoder, network.head) for p in m.parameters()) / 1e6, 2) == decoder
    assert round(sum(p.numel() for p in network.densify.parameters()) / 1e6, 2) == densify


@pytest.mark.parametrize("norm", ["instance", "batch"])
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_reconstructs_from_what_is_visible(spatial_dims, norm):
    torch.manual_seed(0)
    network = SparK(spatial_dims=spatial_dims, decoder_norm=norm, **SMALL)
    x = torch.rand(2, 1, *[32] * spatial_dims)
    visible = torch.rand(2, *[2] * spatial_dims) < 0.5
    visible[:, 0] = True
    made = network(x, visible)
    assert made.shape == x.shape
    other = x.clone()
    voxels = visible
    for axis in range(1, 1 + spatial_dims):
        voxels = voxels.repeat_interleave(16, axis)
    other[~voxels[:, None]] = 100.0
    assert torch.equal(network(other, visible), made)
    made.square().mean().backward()
    assert all(p.grad is not None for p in network.parameters())  # else DistributedDataParallel would wait


def test_densify_fills_hidden_places_with_the_token():
    layer = Densify(spatial_dims=2, channels=2, kernel_size=0)
    visible = torch.tensor([[1.0, 0.0]]).view(1, 1, 1, 2)
    out = layer(torch.tensor([[[[5.0, 0.0]], [[3.0, 0.0]]]]), visible)
    assert torch.equal(out[0, :, 0, 1], layer.token)
    assert out[0, :, 0, 0].abs().max() < 1e-3  # one visible place: its own mean
    assert layer.token.ndim == 1  # no weight decay on it


def test_the_segmentation_network_takes_its_stages_as_they_are():
    pretrained, network = SparK(**SMALL), STUNet(out_channels=2, **SMALL)
    stages = {k: v for k, v in pretrained.state_dict().items() if k.startswith("stage_")}
    result = network.load_state_dict(stages, strict=False)
    assert not result.unexpected_keys
    assert {k.split(".")[0] for k in result.missing_keys} == {"stage_5", "decoder", "head"}


def test_refuses_unknown_norms():
    with pytest.raises(ValueError, match="decoder_norm"):
        SparK(decoder_norm="group", **SMALL)

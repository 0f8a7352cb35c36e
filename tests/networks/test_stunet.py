"""STU-Net: sizes, shapes, outputs."""

from __future__ import annotations

import pytest
import torch

from common.errors import InputError
from common.networks.stunet import STUNet, STUNetEncoder
from common.networks.stunet_blocks import UpBlock

SMALL = {"features": [4, 4, 8, 8, 8, 8]}


def millions(*modules: torch.nn.Module) -> float:
    return round(sum(p.numel() for m in modules for p in m.parameters()) / 1e6, 2)


@pytest.mark.parametrize(
    ("size", "total", "stages", "last", "decoder"),
    [
        ("S", 14.60, 3.58, 3.61, 7.36),
        ("B", 58.26, 14.31, 14.42, 29.43),
        ("L", 440.30, 132.66, 114.31, 193.13),
        ("H", 1457.33, 468.19, 384.59, 604.23),
    ],
)
def test_parameters_are_those_published(size, total, stages, last, decoder):
    """METHODS 3.4, with the 105 outputs of TotalSegmentator."""
    with torch.device("meta"):
        network = STUNet(out_channels=105, size=size)
    assert millions(network) == total
    assert millions(*(network.get_submodule(f"stage_{i}") for i in range(5))) == stages
    assert millions(network.stage_5) == last
    assert millions(network.decoder) == decoder


@pytest.mark.parametrize("last_stride", [1, 2])
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_five_resolutions_in_training_and_one_tensor_otherwise(spatial_dims, last_stride):
    network = STUNet(spatial_dims=spatial_dims, out_channels=3, last_stride=last_stride, **SMALL)
    x = torch.rand(2, 1, *[64] * spatial_dims)
    scores = network(x)
    assert [s.shape for s in scores] == [(2, 3, *[64 // 2**i] * spatial_dims) for i in range(5)]
    sum(s.square().mean() for s in scores).backward()
    assert all(p.grad is not None for p in network.parameters())
    network.eval()
    assert network(x).shape == (2, 3, *[64] * spatial_dims)
    assert network.total_stride == 16 * last_stride


def test_without_deep_supervision_there_is_one_head():
    network = STUNet(out_channels=2, deep_supervision=False, spatial_dims=2, **SMALL)
    assert len(network.head) == 1
    assert network(torch.rand(1, 1, 32, 32)).shape == (1, 2, 32, 32)


def test_children_are_what_transfer_and_learning_rates_go_by():
    names = [name for name, _ in STUNet(out_channels=2, spatial_dims=2, **SMALL).named_children()]
    assert names == [*(f"stage_{i}" for i in range(6)), "decoder", "head"]
    five = STUNetEncoder(n_stages=5, spatial_dims=2, **SMALL)
    assert [name for name, _ in five.named_children()] == names[:5]


def test_convolving_before_enlarging_changes_nothing():
    block = UpBlock(spatial_dims=3, in_channels=4, out_channels=2, depth=1, stride=2)
    x, skip = torch.rand(1, 4, 4, 4, 4), torch.rand(1, 2, 8, 8, 8)
    large = block.reduce(torch.nn.functional.interpolate(x, scale_factor=2))
    expected = block.blocks[0](torch.cat([large, skip], 1))
    torch.testing.assert_close(block(x, skip), expected)


def test_channels_last_gives_the_same():
    network = STUNet(out_channels=2, **SMALL).eval()
    x = torch.rand(2, 1, 32, 32, 32)
    last = network(x.contiguous(memory_format=torch.channels_last_3d))
    torch.testing.assert_close(last, network(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": "M"}, "size"),
        ({"features": [8] * 5}, "features"),
        ({"depths": [1, 1, 1, 1, 1, 0]}, "depths"),
        ({"last_stride": 4}, "last_stride"),
        ({"spatial_dims": 1}, "spatial_dims"),
        ({"in_channels": 0}, "in_channels"),
        ({"out_channels": 0}, "out_channels"),
    ],
)
def test_refuses_what_makes_no_sense(arguments, message):
    with pytest.raises(ValueError, match=message):
        STUNet(**{"out_channels": 2, **arguments})


def test_sizes_that_do_not_fit_are_the_users_to_change():
    network = STUNet(out_channels=2, spatial_dims=2, **SMALL)
    with pytest.raises(InputError, match="multiple of 16"):
        network(torch.rand(1, 1, 40, 32))
    with pytest.raises(InputError, match=r"takes \(B, 1"):
        network(torch.rand(1, 3, 32, 32))

"""Parts of networks: masked norms and blocks, and the moving average of one."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.rows import Case, row
from common.methods.teacher import EMATeacher
from common.networks.masked_conv import InstanceNorm, visible_voxels
from common.networks.spark import SparK
from common.networks.stunet_blocks import ResidualBlock


def _visible(batch: int, grid: int, device: torch.device) -> Tensor:
    """Two fifths of the patches of a cube, bool (B, grid, grid, grid)."""
    n = grid**3
    return (torch.rand(batch, n, device=device).argsort(1) < round(0.4 * n)).view(batch, grid, grid, grid)


@row
def masked_norm(device: torch.device) -> Case:
    """Instance norm of the visible 40 %, forward and backward, (2, 32, 64, 64, 64), float32"""
    return _masked_norm(device, torch.float32)


@row
def masked_norm_bf16(device: torch.device) -> Case:
    """The same in bf16"""
    return _masked_norm(device, torch.bfloat16)


def _masked_norm(device: torch.device, dtype: torch.dtype) -> Case:
    x = torch.randn(2, 32, 64, 64, 64, device=device, dtype=dtype).requires_grad_()
    gradient = torch.randn_like(x)
    patches = _visible(2, 4, device)
    visible = visible_voxels(patches, x.shape[2:])
    norm = InstanceNorm(32).to(device)

    def ours() -> None:
        norm(x, visible).backward(gradient)

    def gathering() -> None:
        """As sparse layers are commonly emulated: visible rows out, 1D norm over all of them, rows back in."""
        rows = x.movedim(1, -1)
        seen = visible[:, 0] > 0
        normalised = torch.nn.functional.instance_norm(rows[seen].T[None], weight=norm.weight, bias=norm.bias)
        made = torch.zeros_like(rows)
        made[seen] = normalised[0].T.to(made.dtype)
        made.movedim(-1, 1).backward(gradient)

    return Case(ours, gathering, "gather, InstanceNorm1d, scatter (pools the batch)")


@row
def ema(device: torch.device) -> Case:
    """Moving average of SparK on STU-Net-B, 53 million parameters"""
    student = SparK(size="B").to(device)
    teacher, other = EMATeacher(student), copy.deepcopy(student)

    def loop() -> None:
        with torch.no_grad():
            for old, new in zip(other.state_dict().values(), student.state_dict().values(), strict=True):
                old.copy_(old * 0.999 + new * 0.001)

    return Case(lambda: teacher.update(student, 0.0), loop, "a loop over tensors")


@row
def adamw(device: torch.device) -> Case:
    """A step of AdamW, SparK on STU-Net-B, 53 million parameters, fused"""
    fused, default = (_adamw(device, fused) for fused in (True, None))
    return Case(fused, default, "torch's default on this device")


def _adamw(device: torch.device, fused: bool | None) -> Callable[[], object]:
    network = SparK(size="B").to(device)
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, 1e-3)
    return torch.optim.AdamW(network.parameters(), lr=1e-4, fused=fused).step


@row
def masked_block(device: torch.device) -> Case:
    """Masked residual block, 32 channels, (1, 32, 64, 64, 64), forward and backward, 40 % visible"""
    block = ResidualBlock(spatial_dims=3, in_channels=32, out_channels=32, project=False).to(device)
    patches = _visible(1, 4, device)
    visible = visible_voxels(patches, (64, 64, 64))
    x = torch.randn(1, 32, 64, 64, 64, device=device) * visible
    seen = patches.flatten().nonzero()[:, 0]

    def ours() -> None:
        block(x.requires_grad_(), visible).sum().backward()

    def convolve(conv: torch.nn.Module, cubes: Tensor) -> Tensor:
        """Visible cubes (K, C, 16, 16, 16) and the rim of their neighbours, convolved without padding."""
        channels = cubes.shape[1]
        whole = cubes.new_zeros(64, channels, 16, 16, 16).index_copy(0, seen, cubes)
        whole = whole.view(4, 4, 4, channels, 16, 16, 16).permute(3, 0, 4, 1, 5, 2, 6).reshape(channels, 64, 64, 64)
        rims = torch.nn.functional.pad(whole, [1] * 6)
        for axis in (1, 2, 3):
            rims = rims.unfold(axis, 18, 16)
        rims = rims.reshape(channels, 64, 18, 18, 18).index_select(1, seen).movedim(1, 0)
        return torch.nn.functional.conv3d(rims, conv.get_parameter("weight"), conv.get_parameter("bias"))

    def normalise(norm: InstanceNorm, cubes: Tensor) -> Tensor:
        flat = cubes.movedim(1, 0).reshape(1, cubes.shape[1], -1)
        flat = torch.nn.functional.instance_norm(flat, weight=norm.weight, bias=norm.bias)
        return flat.view(cubes.shape[1], -1, 16, 16, 16).movedim(0, 1)

    def by_cubes() -> None:
        cubes = x.detach().view(32, 4, 16, 4, 16, 4, 16).permute(1, 3, 5, 0, 2, 4, 6).reshape(64, 32, 16, 16, 16)
        cubes = cubes.index_select(0, seen).requires_grad_()
        y = torch.nn.functional.leaky_relu(normalise(block.norm1, convolve(block.conv1, cubes)), 0.01)
        y = normalise(block.norm2, convolve(block.conv2, y)) + cubes
        torch.nn.functional.leaky_relu(y, 0.01).sum().backward()

    return Case(ours, by_cubes, "visible cubes with their rims only")

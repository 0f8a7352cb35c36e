"""Masked normalisation, and masked passes of STU-Net's blocks (METHODS 3.11)."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional as F

from common.activation_checkpointing import checkpoint_blocks
from common.networks.masked_conv import InstanceNorm, visible_voxels
from common.networks.stunet import STUNetEncoder

FORMATS = [torch.contiguous_format, torch.channels_last_3d]


def example(seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor, InstanceNorm]:
    """A map with a mean far from 0, its visibility, and a norm with random parameters."""
    generator = torch.Generator().manual_seed(seed)
    x = (3 + torch.randn(2, 3, 8, 8, 4, generator=generator, dtype=torch.float64)).to(dtype)
    patches = torch.tensor([[True, False, True, False], [False, False, False, True]]).view(2, 2, 2, 1)
    norm = InstanceNorm(3).to(torch.float64 if dtype == torch.float64 else torch.float32)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, 1.0, -2.0]))
        norm.bias.copy_(torch.tensor([0.1, 0.0, 1.0]))
    return x, visible_voxels(patches, (8, 8, 4)).to(dtype), norm


def gathered(x: torch.Tensor, visible: torch.Tensor, norm: InstanceNorm, pooled: bool) -> torch.Tensor:
    """The definition: gather the visible places, normalise, put them back."""
    result = torch.zeros_like(x)
    for group in [slice(None)] if pooled else [slice(i, i + 1) for i in range(len(x))]:
        for c in range(x.shape[1]):
            seen = visible[group, 0] > 0
            values = x[group, c][seen]
            scaled = (values - values.mean()) / (values.var(correction=0) + norm.eps).sqrt()
            result[group, c] = result[group, c].masked_scatter(seen, scaled * norm.weight[c] + norm.bias[c])
    return result


class TestInstanceNorm:
    """Statistics of visible places only, the gradient written out."""

    @pytest.mark.parametrize("memory_format", FORMATS)
    @pytest.mark.parametrize("pooled", [False, True])
    def test_value_and_gradients_are_those_of_gathering(self, pooled, memory_format):
        x, visible, norm = example()
        x = x.contiguous(memory_format=memory_format).requires_grad_()
        weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
        made, expected = norm(x, visible, pooled), gathered(x, visible, norm, pooled)
        torch.testing.assert_close(made, expected)
        parameters = (x, norm.weight, norm.bias)
        for ours, reference in zip(
            torch.autograd.grad((made * weights).sum(), parameters),
            torch.autograd.grad((expected * weights).sum(), parameters),
            strict=True,
        ):
            torch.testing.assert_close(ours, reference)
        assert made.is_contiguous(memory_format=memory_format)

    @pytest.mark.parametrize("memory_format", FORMATS)
    def test_with_everything_visible_it_is_torchs(self, memory_format):
        x, _, norm = example()
        x = x.contiguous(memory_format=memory_format).requires_grad_()
        expected = F.instance_norm(x, weight=norm.weight, bias=norm.bias)
        (gradient,) = torch.autograd.grad(expected.square().sum(), x)
        for made in (norm(x), norm(x, torch.ones_like(x[:, :1]))):
            torch.testing.assert_close(made, expected)
            torch.testing.assert_close(torch.autograd.grad(made.square().sum(), x)[0], gradient)

    def test_in_two_dimensions(self):
        x, visible, norm = example()
        x, visible = x[..., 0], visible[..., 0]
        torch.testing.assert_close(norm(x, visible), gathered(x, visible, norm, False))

    def test_bf16_has_float32_statistics(self):
        """An offset of 3 with a spread of 1 would lose the variance in half precision."""
        x, visible, norm = example(dtype=torch.bfloat16)
        expected = gathered(x.double(), visible.double(), norm, False)
        made = norm(x, visible)
        assert made.dtype == torch.bfloat16
        torch.testing.assert_close(made.double(), expected, rtol=2**-8, atol=2**-9)

    def test_samples_do_not_mix_unless_asked(self):
        x, visible, norm = example()
        other = x.clone()
        other[1] += 5
        assert torch.equal(norm(x, visible)[0], norm(other, visible)[0])
        assert not torch.allclose(norm(x, visible, True)[0], norm(other, visible, True)[0])


def test_visible_voxels_are_the_nearest_patch():
    patches = torch.tensor([[[True, False]]])
    assert visible_voxels(patches, (2, 4)).tolist() == [[[[1, 1, 0, 0], [1, 1, 0, 0]]]]
    with pytest.raises(ValueError, match="do not divide"):
        visible_voxels(patches, (2, 5))
    with pytest.raises(ValueError, match="do not divide"):
        visible_voxels(patches, (2, 1))


@pytest.fixture(scope="module")
def encoder() -> STUNetEncoder:
    torch.manual_seed(0)
    return STUNetEncoder(features=[4, 4, 6, 6, 8, 8], depths=[2, 1, 1, 1, 1, 1], n_stages=5)


class TestMaskedPass:
    """What is hidden influences nothing."""

    def batch(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        x = torch.rand(2, 1, 32, 32, 48, generator=generator)
        visible = torch.rand(2, 12, generator=generator).argsort(1).view(2, 2, 2, 3) < 5
        return x, visible, visible_voxels(visible, x.shape[2:]) > 0

    def test_maps_are_zero_at_hidden_places_of_every_scale(self, encoder):
        x, visible, _ = self.batch()
        maps = encoder.encode(x, visible)
        assert [tuple(m.shape[2:]) for m in maps] == [
            (32, 32, 48), (16, 16, 24), (8, 8, 12), (4, 4, 6), (2, 2, 3)
        ]  # fmt: skip
        for m in maps:
            seen = visible_voxels(visible, m.shape[2:]) > 0
            assert (m.masked_select(~seen) == 0).all()
            assert (m.masked_select(seen) != 0).any()

    @pytest.mark.parametrize("memory_format", FORMATS)
    def test_hidden_content_changes_not_one_bit(self, encoder, memory_format):
        x, visible, seen = self.batch()
        other = torch.where(seen, x, torch.full_like(x, torch.nan))
        for m, n in zip(
            encoder.encode(x.contiguous(memory_format=memory_format), visible),
            encoder.encode(other.contiguous(memory_format=memory_format), visible),
            strict=True,
        ):
            assert torch.equal(m, n)

    def test_no_gradient_reaches_hidden_places(self, encoder):
        x, visible, seen = self.batch()
        x.requires_grad_()
        weights = [torch.randn_like(m) for m in encoder.encode(x, visible)]
        total = sum((m * w).sum() for m, w in zip(encoder.encode(x, visible), weights, strict=True))
        (gradient,) = torch.autograd.grad(total, x)
        assert (gradient[~seen] == 0).all()
        assert (gradient[seen] != 0).any()

    def test_samples_do_not_mix_unless_pooled(self, encoder):
        x, visible, _ = self.batch()
        other = torch.cat([x[:1], x[1:] * 2 + torch.rand_like(x[1:])])
        assert torch.equal(encoder.encode(x, visible)[-1][0], encoder.encode(other, visible)[-1][0])
        pooled = [encoder.encode(image, visible, batch_pooled=True)[-1][0] for image in (x, other)]
        assert not torch.allclose(*pooled)

    def test_with_everything_visible_it_is_the_dense_pass(self, encoder):
        x, visible, _ = self.batch()
        for m, n in zip(encoder.encode(x, torch.ones_like(visible)), encoder.encode(x), strict=True):
            torch.testing.assert_close(m, n, rtol=1e-4, atol=1e-5)

    def test_checkpointing_recomputes_with_the_same_mask(self, encoder):
        """Another pass with another mask in between must not matter."""
        x, visible, _ = self.batch()
        recomputing = copy.deepcopy(encoder)
        checkpoint_blocks(recomputing)
        gradients = []
        for network in (encoder, recomputing):
            network.zero_grad()
            total = network.encode(x, visible)[-1].square().sum()
            network.encode(x, ~visible)
            total.backward()
            gradients.append([p.grad.clone() for p in network.parameters()])
        assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))

"""SimMIM: the token hides, one linear layer predicts, the encoder alone learns."""

from __future__ import annotations

import pytest
import torch

from common.methods.baselines import baseline_loss
from common.methods.encoder_prediction import depth_to_space
from common.methods.simmim import SimMIM
from common.networks.mit_unet import MixTransformerUNet


def method(spatial_dims: int = 3, **changes) -> SimMIM:
    torch.manual_seed(0)
    channels = {
        "in_channels": 3,
        "out_channels": 3,
        "variant": "b0",
        "stem_stride": 2,
        "decoder_channels": (8, 8, 4, 4),
    }
    return SimMIM(MixTransformerUNet(spatial_dims=spatial_dims, **channels), **{"patch_size": 16, **changes})


def image(*shape: int) -> torch.Tensor:
    return torch.rand(shape or (2, 3, 32, 32, 16), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("spatial_dims", "shape"), [(3, (2, 3, 32, 16, 16)), (2, (2, 3, 32, 48))])
def test_shapes(spatial_dims: int, shape: tuple[int, ...]) -> None:
    outputs = method(spatial_dims)(image(*shape))
    assert outputs["reconstruction"].shape == outputs["target"].shape == (1, *shape)
    assert outputs["mask"].shape == (1, shape[0], 1, *shape[2:])
    assert outputs["fill"].shape == (3, *[1] * spatial_dims)


def test_the_token_stands_exactly_where_patches_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    sim = method(mask_ratio=0.5)
    sim.token.data = torch.tensor([-1.0, -2.0, -3.0]).view(3, 1, 1, 1)
    seen = []
    encode = sim.network.encode
    monkeypatch.setattr(sim.network, "encode", lambda x: (seen.append(x), encode(x))[1])
    x = image()
    mask = sim(x)["mask"][0, :, 0]
    for channel, value in enumerate((-1.0, -2.0, -3.0)):
        assert (seen[0][:, channel][mask] == value).all()
        assert torch.equal(seen[0][:, channel][~mask], x[:, channel][~mask])
    assert mask.float().mean() == 0.5


def test_encoder_token_and_predictor_learn_and_the_decoder_stays() -> None:
    sim = method()
    baseline_loss(name="simmim")(sim(image())).backward()
    assert sim.token.grad.abs().sum() > 0
    assert sim.predictor.weight.grad.abs().sum() > 0
    trained = {name.split(".")[0] for name, p in sim.network.named_parameters() if p.requires_grad}
    assert trained == {"encoder"}
    assert all(p.grad is not None for p in sim.parameters() if p.requires_grad)


def test_hidden_voxels_do_not_reach_the_prediction() -> None:
    sim = method().eval()
    x = image()
    sim.seed_masks(3)
    first = sim(x)
    sim.seed_masks(3)
    second = sim(torch.where(first["mask"][0], 0.123, x))
    assert torch.equal(first["reconstruction"], second["reconstruction"])


def test_channels_become_the_voxels_of_their_block() -> None:
    """Channel c of a block goes to row c // 2, column c % 2, of image channel 0; the next four to channel 1."""
    features = torch.arange(8.0).view(1, 8, 1, 1) + torch.tensor([0.0, 10.0]).view(1, 1, 1, 2)
    made = depth_to_space(features, 2)
    assert made.shape == (1, 2, 2, 4)
    assert made[0, 0].tolist() == [[0, 1, 10, 11], [2, 3, 12, 13]]
    assert made[0, 1].tolist() == [[4, 5, 14, 15], [6, 7, 16, 17]]
    volume = depth_to_space(torch.arange(8.0).view(1, 8, 1, 1, 1), 2)
    assert torch.equal(volume.flatten(), torch.arange(8.0))

"""The bundles' network: sizes, precision, gradients, export."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import nn

from common.errors import InputError
from common.networks.heads import ProjectionHead
from common.networks.mit_unet import MixTransformerUNet


def tiny(**changes: Any) -> MixTransformerUNet:
    arguments: dict[str, Any] = {
        "spatial_dims": 3,
        "out_channels": 2,
        "variant": "b0",
        "stem_stride": 2,
        "decoder_channels": (8, 8, 4, 4),
        **changes,
    }
    torch.manual_seed(0)
    return MixTransformerUNet(**arguments)


@pytest.mark.parametrize(
    ("spatial_dims", "variant", "millions"), [(2, "b0", 10.62), (2, "b2", 33.63), (3, "b0", 27.73), (3, "b2", 67.67)]
)
def test_parameter_counts_with_head_and_projector(spatial_dims: int, variant: str, millions: float) -> None:
    with torch.device("meta"):
        network = MixTransformerUNet(spatial_dims=spatial_dims, out_channels=3, variant=variant, norm="batch")
        projector = ProjectionHead(spatial_dims=spatial_dims, in_channels=network.encoder.channels[-1])
    total = sum(p.numel() for module in (network, projector) for p in module.parameters())
    assert total / 1e6 == pytest.approx(millions, abs=0.006)


@pytest.mark.parametrize(
    ("spatial_dims", "stem_stride", "channels", "size"),
    [(3, 2, (8, 8, 4, 4), (32, 16, 16)), (2, 4, (8, 8, 8, 4, 4), (64, 32)), (3, 4, (8, 8, 8, 4, 4), (64, 32, 32))],
)
def test_logits_have_the_size_of_the_image(
    spatial_dims: int, stem_stride: int, channels: tuple[int, ...], size: tuple[int, ...]
) -> None:
    network = tiny(spatial_dims=spatial_dims, stem_stride=stem_stride, decoder_channels=channels)
    x = torch.rand(2, 3, *size)
    features = network.encode(x)
    assert len(features) == 4
    assert network.decode(features).shape == (2, 4, *size)
    assert network(x).shape == (2, 2, *size)


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_every_parameter_gets_a_gradient(norm: str) -> None:
    network = tiny(norm=norm)
    network(torch.rand(2, 3, 32, 32, 32)).square().mean().backward()
    missing = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert missing == []


@pytest.mark.parametrize("channels_last", [False, True])
def test_bf16_autocast_agrees_with_float32(channels_last: bool) -> None:
    network = tiny(drop_path_rate=0.0).eval()
    x = torch.rand(1, 3, 32, 32, 32)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last_3d)
    with torch.no_grad():
        exact = network(x)
        with torch.autocast("cpu", torch.bfloat16):
            rough = network(x)
    assert rough.dtype == torch.bfloat16
    assert (rough - exact).square().mean().sqrt() < 0.05 * exact.std()


def test_size_that_the_stride_does_not_divide() -> None:
    with pytest.raises(InputError, match=r"\[32, 40, 32\].*multiple of 16"):
        tiny()(torch.rand(1, 3, 32, 40, 32))


@pytest.mark.parametrize("shape", [(1, 1, 16, 16, 16), (1, 3, 16, 16)])
def test_image_of_another_kind(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"takes \(B, 3, \*S\) with 3 spatial axes"):
        tiny()(torch.rand(shape))


class TestExport:
    """TorchScript and ONNX give the same numbers, also at another size."""

    sizes = ((1, 3, 32, 32, 32), (2, 3, 48, 32, 16))

    @pytest.fixture(scope="class")
    def network(self) -> MixTransformerUNet:
        return tiny().eval()

    @pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
    @pytest.mark.parametrize("how", ["script", "trace"])
    def test_torchscript(self, network: nn.Module, how: str) -> None:
        compiled = torch.jit.script(network) if how == "script" else torch.jit.trace(network, torch.rand(self.sizes[0]))
        file = io.BytesIO()
        torch.jit.save(compiled, file)
        file.seek(0)
        loaded = torch.jit.load(file)
        with torch.no_grad():
            for size in self.sizes:
                x = torch.rand(size)
                torch.testing.assert_close(loaded(x), network(x), rtol=1e-4, atol=1e-5)

    @pytest.mark.filterwarnings("ignore")  # the exporter announces its own deprecation, and folds what it can
    def test_onnx(self, network: nn.Module) -> None:
        onnxruntime = pytest.importorskip("onnxruntime")
        file = io.BytesIO()
        axes = {0: "batch", 2: "h", 3: "w", 4: "d"}
        torch.onnx.export(
            network,
            (torch.rand(self.sizes[0]),),
            file,
            opset_version=18,
            dynamo=False,
            input_names=["image"],
            output_names=["pred"],
            dynamic_axes={"image": axes, "pred": axes},
        )
        session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
        with torch.no_grad():
            for size in self.sizes:
                x = torch.rand(size)
                (found,) = session.run(None, {"image": x.numpy()})
                torch.testing.assert_close(torch.from_numpy(found), network(x), rtol=1e-3, atol=1e-4)

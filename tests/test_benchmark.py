"""The benchmark's command line, with a row that takes no time, and what the method tax compares."""

from __future__ import annotations

import importlib.util
import inspect
import json
import re
import sys
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest
import torch

from tests.bundles.discovery import NAMES, REPOSITORY
from tests.bundles.running import TINY


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    path = REPOSITORY / "scripts" / "benchmark.py"
    sys.path.insert(0, str(path.parent))  # as Python does for a script
    spec = importlib.util.spec_from_file_location("benchmark_script", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    sys.path.remove(str(path.parent))
    return module


def test_rows_alternate_and_results_are_written(benchmark, monkeypatch, tmp_path, capsys):
    order = []
    case = benchmark.tax.Case

    def nothing(device: torch.device):
        """Two ways to do nothing"""
        assert device.type == "cpu"
        return case(lambda: order.append("ours"), lambda: order.append("theirs"), "idling", lambda: "both idle")

    monkeypatch.setitem(benchmark.ROWS, "nothing", nothing)
    file = tmp_path / "times.json"
    (result,) = benchmark.main(["not?ing", "--repeats", "3", "--clock", "cpu", "--json", str(file)])
    assert order == ["ours", "theirs"] * 4
    assert result.ratio == pytest.approx(result.alternative_ms / result.ours_ms)
    shown = capsys.readouterr().out
    assert "| nothing | Two ways to do nothing |" in shown
    assert shown.endswith("nothing: both idle\n")
    report = json.loads(file.read_text())
    assert report["rows"][0]["name"] == "nothing"
    assert report["torch"] == torch.__version__
    assert report["clock"] == "cpu"


def test_ssim_against_monai_is_a_row(benchmark):
    assert benchmark.ROWS["ssim"](torch.device("cpu")).alternative_name == "monai.losses.SSIMLoss"


def test_kmeans_says_what_it_is_compared_with(benchmark):
    case = benchmark.ROWS["kmeans_ten_starts"](torch.device("cpu"))
    assert "10 starts" in case.alternative_name
    installed = importlib.util.find_spec("sklearn") is not None
    assert ("not installed" in case.alternative_name) != installed


def test_windows_are_compared_with_as_many_passes(benchmark, monkeypatch):
    n_windows = []

    def forward(_, window: torch.Tensor) -> torch.Tensor:
        n_windows.append(len(window))
        return window.expand(-1, 14, -1, -1, -1)

    monkeypatch.setattr(benchmark.inference.VotesAndUNet, "forward", forward)
    case = benchmark.ROWS["windows"](torch.device("cpu"))
    case.ours()
    case.alternative()
    assert n_windows == [1] * 40


def test_both_ways_from_file_to_mask_agree(benchmark, monkeypatch, phantom_dir):
    source = nib.load(next((phantom_dir / "imagesTs").glob("*.nii.gz")))
    chest = (np.asarray(source.dataobj).astype(np.int16), source.affine)
    monkeypatch.setattr(benchmark.inference, "_chest", lambda: chest)
    monkeypatch.setattr(benchmark.inference, "SPACING", (8.0, 8.0, 8.0))
    case = benchmark.ROWS["inference"](torch.device("cpu"))
    case.ours()
    case.alternative()
    same = re.match(r"the same class in ([\d.]+) % of the voxels, mean Dice ([\d.]+)", case.agreement())
    assert float(same[1]) > 85  # at 8 mm
    assert float(same[2]) > 0.5


def test_unknown_rows_are_named(benchmark, capsys):
    with pytest.raises(SystemExit) as ended:
        benchmark.main(["sim"])
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert "no row named sim; there are " in message
    assert " ssim, " in message


@pytest.mark.usefixtures("benchmark")
def test_memory_is_that_of_the_run():
    rows = sys.modules["benchmarks.rows"]
    grown = rows.peak_growth(lambda: torch.ones(16_000_000), torch.device("cpu"))
    assert grown is None or 50 < grown < 100  # 64 MB


@pytest.mark.parametrize("name", NAMES)
def test_a_taxed_step_trains_and_the_bare_passes_only_differentiate(benchmark, name):
    """Both leave gradients in the same network; the step alone changes it."""
    tiny = json.loads(TINY.read_text())
    sizes = {key: value for key, value in tiny.items() if key not in ("roi_size", "precision", "device")}
    case = benchmark.tax.method_tax(torch.device("cpu"), bundle=name, roi_size=[32] * 3, precision="fp32", **sizes)
    network = inspect.getclosurevars(case.ours).nonlocals["method"].network
    before = [parameter.detach().clone() for parameter in network.parameters()]

    def unchanged() -> bool:
        return all(torch.equal(a, b) for a, b in zip(network.parameters(), before, strict=True))

    case.alternative()
    assert unchanged()
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in network.parameters())
    case.ours()
    assert not unchanged()


def test_every_method_is_taxed_at_two_sizes_in_both_precisions(benchmark):
    for name in NAMES:
        assert len([row for row in benchmark.ROWS if row.startswith(f"tax_{name}_")]) == 4

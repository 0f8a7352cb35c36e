"""The benchmark's command line, with a row that takes no time."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    path = Path(__file__).resolve().parent.parent / "scripts" / "benchmark.py"
    spec = importlib.util.spec_from_file_location("benchmark_script", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_rows_alternate_and_results_are_written(benchmark, monkeypatch, tmp_path, capsys):
    order = []

    def nothing(device: torch.device):
        """Two ways to do nothing"""
        assert device.type == "cpu"
        return benchmark.Case(lambda: order.append("ours"), lambda: order.append("theirs"), "idling")

    monkeypatch.setitem(benchmark.ROWS, "nothing", nothing)
    file = tmp_path / "times.json"
    (result,) = benchmark.main(["nothing", "--repeats", "3", "--json", str(file)])
    assert order == ["ours", "theirs"] * 4
    assert result.ratio == pytest.approx(result.alternative_ms / result.ours_ms)
    assert "| nothing | Two ways to do nothing |" in capsys.readouterr().out
    report = json.loads(file.read_text())
    assert report["rows"][0]["name"] == "nothing"
    assert report["torch"] == torch.__version__


def test_ssim_against_monai_is_a_row(benchmark):
    assert benchmark.ROWS["ssim"](torch.device("cpu")).alternative_name == "monai.losses.SSIMLoss"


def test_kmeans_says_what_it_is_compared_with(benchmark):
    case = benchmark.ROWS["kmeans_ten_starts"](torch.device("cpu"))
    assert "10 starts" in case.alternative_name
    installed = importlib.util.find_spec("sklearn") is not None
    assert ("not installed" in case.alternative_name) != installed


def test_unknown_rows_are_named(benchmark, capsys):
    with pytest.raises(SystemExit) as ended:
        benchmark.main(["sim"])
    assert ended.value.code == 2
    assert "no row named sim; there are ssim" in capsys.readouterr().err

"""Contrast at several levels (METHODS 2.5, 2.11)."""

from __future__ import annotations

import logging
import math

import pytest
import torch

from common.losses.level_contrast import LevelContrast

# two cases, two levels, orthonormal embeddings
ORTHONORMAL = torch.eye(2, 8)[:, None].expand(2, 2, 8)


@pytest.mark.parametrize("temperature", [0.25, 0.5])
def test_ntxent_of_orthonormal_pairs_summed_over_levels(temperature: float) -> None:
    loss = LevelContrast(temperature=temperature)(ORTHONORMAL, ORTHONORMAL)
    e = math.exp(1 / temperature)
    assert loss.item() == pytest.approx(2 * -math.log(e / (e + 2)), rel=1e-4)


def test_literal_equation_would_be_unbounded_ours_is_not() -> None:
    assert LevelContrast(temperature=0.01)(ORTHONORMAL, ORTHONORMAL) >= 0


def test_temperature_is_learnt_and_bounded() -> None:
    contrast = LevelContrast()
    assert contrast.temperature.item() == pytest.approx(0.07)
    (parameter,) = contrast.parameters()
    assert parameter.item() == pytest.approx(math.log(1 / 0.07))
    contrast(torch.randn(4, 2, 8), torch.randn(4, 2, 8)).backward()
    assert parameter.grad is not None
    assert parameter.grad != 0
    parameter.data.fill_(10.0)
    assert contrast.temperature.item() == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("arguments", "n"), [({}, 1), ({"learnable": False}, 0), ({"kind": "cosine_x1000"}, 0), ({"kind": "none"}, 0)]
)
def test_no_parameter_without_a_use(arguments: dict[str, object], n: int) -> None:
    contrast = LevelContrast(**arguments)  # type: ignore[arg-type]
    assert len(list(contrast.parameters())) == n
    assert "log_scale" in contrast.state_dict()


def test_cosine_as_released() -> None:
    a, b = ORTHONORMAL, ORTHONORMAL.clone()
    assert LevelContrast(kind="cosine_x1000")(a, b).item() == pytest.approx(0, abs=1e-4)
    b = b.flip(0)
    assert LevelContrast(kind="cosine_x1000")(a, b).item() == pytest.approx(2000)


def test_none_is_zero() -> None:
    assert LevelContrast(kind="none")(ORTHONORMAL, ORTHONORMAL.flip(0)).item() == 0


def test_a_single_case_is_zero_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    contrast = LevelContrast()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            loss = contrast(torch.randn(1, 2, 8), torch.randn(1, 2, 8))
    assert loss.item() == 0
    assert caplog.text.count("no negatives") == 1


@pytest.mark.parametrize(
    ("arguments", "message"), [({"kind": "clip"}, "contrast"), ({"temperature": 0.0}, "temperature")]
)
def test_arguments_out_of_range(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LevelContrast(**arguments)  # type: ignore[arg-type]

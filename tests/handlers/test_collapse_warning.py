from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
import torch

from common.handlers.collapse_warning import CollapseWarning


def after_an_epoch(spread: float, *, shape: tuple[int, ...] = (2, 4, 100), name: str = "embedding_spread") -> object:
    """An engine whose method returned embeddings of that shape and spread; of 100 features, a tenth is the most."""
    outputs = {"embeddings": torch.zeros(shape)}
    return SimpleNamespace(state=SimpleNamespace(output={"pred": outputs}, averages={name: spread}, iteration=50))


@pytest.mark.parametrize("name", ["embedding_spread", "embedding_spread_f5"])
def test_warns_once_below_a_tenth_of_the_largest_spread(name: str, caplog: pytest.LogCaptureFixture) -> None:
    handler = CollapseWarning()
    handler(after_an_epoch(0.011, name=name))
    assert caplog.messages == []
    for _ in range(2):
        handler(after_an_epoch(0.009, name=name))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"at step 50, {name} is 0.0090, where directions all over the sphere have 0.100" in record.message


def test_judges_no_single_case_and_no_method_without_embeddings(caplog: pytest.LogCaptureFixture) -> None:
    handler = CollapseWarning()
    handler(after_an_epoch(0.0, shape=(2, 1, 100)))
    without = after_an_epoch(0.0)
    without.state.output["pred"] = {"reconstruction": torch.zeros(1)}
    handler(without)
    assert caplog.messages == []

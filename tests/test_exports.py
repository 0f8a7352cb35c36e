from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from common.checkpoints import load_weights
from common.errors import InputError
from common.exports import ExportedNetwork


def export(path: Path, **files: dict) -> nn.Module:
    """A network in a file as MONAI's ``ckpt_export`` writes it."""
    network = nn.Conv3d(1, 2, 3, padding=1)
    extra = {f"{name}.json": json.dumps(content) for name, content in files.items()}
    torch.jit.save(torch.jit.trace(network, torch.rand(1, 1, 4, 4, 4)), path, _extra_files=extra)
    return network


def test_scores_are_those_of_the_network_that_was_exported(tmp_path: Path) -> None:
    network = export(tmp_path / "model.ts")
    image = torch.rand(1, 1, 6, 4, 4)
    torch.testing.assert_close(ExportedNetwork(path=tmp_path / "model.ts")(image), network(image))


def test_overlays_come_after_inference_json_and_metadata_is_no_setting(tmp_path: Path) -> None:
    export(
        tmp_path / "model.ts", a={"spacing": [3.0]}, inference={"spacing": [1.5], "edge": "slice"}, metadata={"x": 1}
    )
    assert ExportedNetwork(path=tmp_path / "model.ts").settings == {"spacing": [3.0], "edge": "slice"}


def test_other_settings_are_named_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    export(tmp_path / "model.ts", inference={"spacing": [1.5]})
    network = ExportedNetwork(path=tmp_path / "model.ts")
    assert load_weights(network, tmp_path / "not_there.pt", expected_card={"spacing": [1.5], "method": "x"}) == {}
    assert not caplog.records
    load_weights(network, tmp_path / "not_there.pt", expected_card={"spacing": [2.0]})
    assert "spacing: [2.0] here, [1.5] there" in caplog.text


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not there"):
        ExportedNetwork(path=tmp_path / "model.ts")
    (tmp_path / "model.ts").write_bytes(b"no archive")
    with pytest.raises(InputError, match="no TorchScript"):
        ExportedNetwork(path=tmp_path / "model.ts")
    torch.save({"model": {}}, tmp_path / "model.ts")
    with pytest.raises(InputError, match="no TorchScript"):
        ExportedNetwork(path=tmp_path / "model.ts")

"""Checkpoints: complete or absent, safe to open, and refused by name when they belong to something else."""

from __future__ import annotations

import errno
import logging
import os
import pickle
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from common import __version__
from common.checkpoints import card_difference, load_checkpoint, load_weights, save_atomic, save_pretrained
from common.errors import InputError


def network(width: int = 3) -> nn.Module:
    return nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width))


class TestSaveAtomic:
    """A failure leaves the earlier file and nothing else."""

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        path = tmp_path / "a.pt"
        save_atomic({"epoch": 1}, path)
        return path

    @pytest.fixture
    def small_disk(self) -> Iterator[None]:
        """Files of this process end at 100 kB, the way a full disk ends them."""
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        yield
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    def assert_as_it_was(self, path: Path) -> None:
        assert load_checkpoint(path) == {"epoch": 1}
        assert list(path.parent.iterdir()) == [path]

    def test_replaces(self, path: Path) -> None:
        save_atomic({"epoch": 2}, path)
        assert load_checkpoint(path) == {"epoch": 2}
        assert list(path.parent.iterdir()) == [path]

    @pytest.mark.usefixtures("small_disk")
    @pytest.mark.parametrize("n", [30_000, 1_000_000])
    def test_disk_that_ends_while_writing(self, path: Path, n: int) -> None:
        with pytest.raises(InputError, match=r"a\.pt: cannot be written \(.*MiB free there\)\. Free space"):
            save_atomic({"weights": torch.zeros(n)}, path)
        self.assert_as_it_was(path)

    def test_disk_that_is_full_when_synced(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(_: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(InputError, match="No space left on device"):
            save_atomic({"epoch": 2}, path)
        self.assert_as_it_was(path)

    def test_defect_of_the_program_stays_a_defect(self, path: Path) -> None:
        with pytest.raises((AttributeError, pickle.PicklingError)):
            save_atomic({"f": lambda: None}, path)
        self.assert_as_it_was(path)


class RunsCode:
    """Creates a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


class TestLoadCheckpoint:
    """Each way a file can be wrong is one clear error."""

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"b\.pt: not there\. Check the path"):
            load_checkpoint(tmp_path / "b.pt")

    @pytest.mark.parametrize("protocol", [None, 2, 4])
    def test_code_is_refused_and_not_run(self, tmp_path: Path, protocol: int | None) -> None:
        path, trace = tmp_path / "b.pt", tmp_path / "was_run"
        content = {"model": RunsCode(trace)}
        if protocol is None:
            torch.save(content, path)
        else:
            path.write_bytes(pickle.dumps(content, protocol=protocol))
        # torch does not read protocol 4 far enough to say what is inside
        reason = "no checkpoint of tensors" if protocol == 4 else "refused, it holds Python objects that could run code"
        with pytest.raises(InputError, match=rf"b\.pt: .*{reason}"):
            load_checkpoint(path)
        assert not trace.exists()

    @pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
    def test_truncated(self, tmp_path: Path, share: float) -> None:
        path = tmp_path / "b.pt"
        save_atomic({"weights": torch.rand(1000)}, path)
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(
            InputError, match=r"b\.pt: damaged, or no checkpoint of tensors and plain values\. Copy it again"
        ):
            load_checkpoint(path)

    @pytest.mark.parametrize(
        "content", [b"", b"hello", b"\x00" * 500, b"\x80\x02]q\x00(garbage", "größe".encode() * 40]
    )
    def test_something_else(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "b.pt"
        path.write_bytes(content)
        with pytest.raises(InputError, match="damaged, or no checkpoint"):
            load_checkpoint(path)

    def test_folder(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="cannot be read"):
            load_checkpoint(tmp_path)

    def test_tensor_alone(self, tmp_path: Path) -> None:
        torch.save(torch.zeros(1), tmp_path / "b.pt")
        with pytest.raises(InputError, match="holds a Tensor, not a checkpoint"):
            load_checkpoint(tmp_path / "b.pt")


class TestPretrained:
    """Weights travel with a card."""

    def test_card_becomes_plain_values(self, tmp_path: Path) -> None:
        card = {
            "spacing": (1.5, 1.5, 1.5),
            "structures": {"heart": 3},
            "dice": np.float64(0.5),
            "seed": np.int64(7),
            "folder": Path("x"),
            "cases": ["a", "b"],
            "flag": True,
            "nothing": None,
        }
        save_pretrained(tmp_path / "m.pt", network(), card)
        found = load_checkpoint(tmp_path / "m.pt")["card"]
        assert found.pop("torch_version") == str(torch.__version__)
        assert found.pop("package_version") == __version__
        assert found == {**card, "spacing": [1.5, 1.5, 1.5], "dice": 0.5, "seed": 7, "folder": "x"}

    def test_round_trip(self, tmp_path: Path) -> None:
        torch.manual_seed(0)
        saved, loaded = network(), network()
        saved(torch.rand(4, 2))
        save_pretrained(tmp_path / "m.pt", saved, {"method": "isd_mae"})
        card = load_weights(loaded, tmp_path / "m.pt", expected_card={"method": "isd_mae"})
        assert card["method"] == "isd_mae"
        for name, value in saved.state_dict().items():
            assert torch.equal(value, loaded.state_dict()[name])

    @pytest.mark.parametrize("wrap", [lambda weights: weights, lambda weights: {"network": weights}])
    def test_files_of_other_programs(self, tmp_path: Path, wrap: Any) -> None:
        saved, loaded = network(), network()
        weights = {f"module.{name}": value for name, value in saved.state_dict().items()}
        save_atomic(wrap(weights), tmp_path / "m.pt")
        load_weights(loaded, tmp_path / "m.pt", key="network")
        assert torch.equal(saved.state_dict()["0.weight"], loaded.state_dict()["0.weight"])

    def test_no_file_names_the_training_command(self, tmp_path: Path) -> None:
        path = tmp_path / "isd_mae" / "models" / "model.pt"
        with pytest.raises(
            InputError,
            match=r"Train one first: python -m monai\.bundle run --config_file .*isd_mae/configs/train\.json",
        ):
            load_weights(network(), path)

    def test_another_network(self, tmp_path: Path) -> None:
        save_pretrained(tmp_path / "m.pt", network(4), {})
        target = network(3)
        before = target.state_dict()["0.weight"].clone()
        with pytest.raises(
            InputError, match=r"another network \(0\.weight is \(4, 2\) instead of \(3, 2\); .*and 3 more"
        ):
            load_weights(target, tmp_path / "m.pt")
        assert torch.equal(target.state_dict()["0.weight"], before)

    def test_missing_and_extra_names(self, tmp_path: Path) -> None:
        save_atomic({"model": {"0.weight": torch.zeros(3, 2), "9.weight": torch.zeros(1)}}, tmp_path / "m.pt")
        with pytest.raises(InputError, match=r"0\.bias is missing; 9\.weight is not part of the network"):
            load_weights(nn.Sequential(nn.Linear(2, 3)), tmp_path / "m.pt")

    def test_no_weights_inside(self, tmp_path: Path) -> None:
        save_atomic({"epoch": 3}, tmp_path / "m.pt")
        with pytest.raises(InputError, match=r"no weights under 'model' \(found: epoch\)"):
            load_weights(network(), tmp_path / "m.pt")

    def test_another_configuration(self, tmp_path: Path) -> None:
        save_pretrained(tmp_path / "m.pt", network(), {"spacing": [1.5, 1.5], "seed": 1})
        with pytest.raises(InputError, match=r"spacing: \[3\.0, 3\.0\] here, \[1\.5, 1\.5\] there; norm: 'batch' here"):
            load_weights(network(), tmp_path / "m.pt", expected_card={"spacing": [3.0, 3.0], "norm": "batch"})

    def test_file_without_card_is_used_with_a_warning(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        save_atomic({"model": network().state_dict()}, tmp_path / "m.pt")
        with caplog.at_level(logging.WARNING):
            load_weights(network(), tmp_path / "m.pt", expected_card={"norm": "batch"})
        assert "has no card" in caplog.text


class TestCardDifference:
    """Every differing entry is named, with both values."""

    def test_equal(self) -> None:
        assert card_difference({"a": (1, 2.0), "b": {"c": "x"}}, {"b": {"c": "x"}, "a": [1.0, 2]}) == []

    def test_all_are_named(self) -> None:
        expected = {"seed": 1, "network": {"norm": "batch", "depth": 3}, "edge": "slice"}
        found = {"seed": 2, "network": {"norm": "instance", "depth": 3}, "method": "amlp"}
        assert card_difference(expected, found) == [
            "seed: 1 here, 2 there",
            "network.norm: 'batch' here, 'instance' there",
            "edge: 'slice' here, absent there",
            "method: absent here, 'amlp' there",
        ]

    def test_order_of_structures_counts(self) -> None:
        expected, found = {"structures": {"heart": 3, "aorta": 4}}, {"structures": {"aorta": 4, "heart": 3}}
        assert card_difference(expected, found) == [
            "structures.order ['heart', 'aorta'] here, ['aorta', 'heart'] there"
        ]
        assert card_difference({"x": {"a": 1, "b": 2}}, {"x": {"b": 2, "a": 1}}) == []

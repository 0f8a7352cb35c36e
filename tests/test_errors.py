"""What the user is shown when a file or an argument is at fault."""

from __future__ import annotations

import subprocess
import sys

import pytest
from monai.bundle import ConfigParser
from monai.transforms import Compose
from torch.utils.data import DataLoader, Dataset

from common.errors import InputError, input_error_message


def fail(_: object) -> None:
    msg = "scan.nii.gz: is empty. Remove it."
    raise InputError(msg)


class FailingDataset(Dataset):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> None:
        Compose([fail])(index)


def test_message_is_found_behind_monai_transforms() -> None:
    with pytest.raises(RuntimeError) as caught:
        Compose([fail])({})
    assert input_error_message(caught.value) == "scan.nii.gz: is empty. Remove it."


def test_message_is_found_behind_data_loader_workers() -> None:
    with pytest.raises(RuntimeError) as caught:
        next(iter(DataLoader(FailingDataset(), num_workers=1)))
    assert input_error_message(caught.value) == "scan.nii.gz: is empty. Remove it."


def test_a_setting_that_a_component_refuses_is_one_line() -> None:
    for target, message in (("common.masking.patches.check_rule", "rule: got 'x'. Allowed"), ("os.listdir", None)):
        content = {"component": {"_target_": target, "rule" if "rule" in target else "path": "x"}}
        with pytest.raises(RuntimeError, match="Failed to instantiate") as caught:
            ConfigParser(content).get_parsed_content("component")
        found = input_error_message(caught.value)
        assert found is None if message is None else str(found).startswith(message)


def test_defects_keep_their_traceback() -> None:
    assert input_error_message(KeyError("x")) is None


@pytest.mark.parametrize(
    ("statement", "shown", "hidden"),
    [
        ("raise InputError('a.nii.gz: is empty. Remove it.')", "error: a.nii.gz: is empty. Remove it.", "Traceback"),
        ("{}['x']", "KeyError", "error:"),
    ],
)
def test_excepthook_ends_with_one_line_and_exit_code(statement: str, shown: str, hidden: str) -> None:
    code = f"from common.errors import *; install_excepthook(); {statement}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert shown in done.stderr
    assert hidden not in done.stderr

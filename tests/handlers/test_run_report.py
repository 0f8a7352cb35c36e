"""What a manifest says of the machine and its packages."""

from __future__ import annotations

from importlib.metadata import version

import pytest

from common.handlers import run_report


def test_a_package_that_is_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """itk is for DICOM alone: a training without it must not end because of its own manifest."""
    monkeypatch.setattr(run_report, "_PACKAGES", ("torch", "no-such-package"))
    versions = run_report.package_versions()
    assert versions["torch"] == version("torch")
    assert versions["no-such-package"] is None

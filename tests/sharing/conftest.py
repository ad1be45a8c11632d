"""A results root of each test's own to install models into."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty results root."""
    folder = tmp_path / "roots" / "nnUNet_results"
    folder.mkdir(parents=True)
    monkeypatch.setenv("nnUNet_results", str(folder))
    return folder

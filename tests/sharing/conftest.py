"""An exported model, and a results root of each test's own to install it into."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuse4seg.inference.models import model_in
from fuse4seg.sharing.export_model import export_models


@pytest.fixture(scope="session")
def exported(trained_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Archive of ``trained_model``."""
    path = tmp_path_factory.mktemp("exported") / "model.zip"
    export_models([model_in(trained_model)], path)
    return path


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty results root."""
    folder = tmp_path / "roots" / "nnUNet_results"
    folder.mkdir(parents=True)
    monkeypatch.setenv("nnUNet_results", str(folder))
    return folder

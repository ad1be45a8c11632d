"""f4s_plan_experiment and f4s_extract_fingerprint: one line for a dataset that cannot be planned."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fuse4seg.cli import extract_fingerprint, plan_experiment


@pytest.mark.parametrize("command", [extract_fingerprint.main, plan_experiment.main])
class TestPlanningCommands:
    def test_name_a_missing_dataset_json(self, command: Callable[..., int], tmp_path: Path,
                                         capsys: pytest.CaptureFixture[str]) -> None:
        folder = tmp_path / "nnUNet_raw" / "Dataset042_Empty"
        folder.mkdir(parents=True)
        assert command(["-d", "42", "--root", str(tmp_path)]) == 1
        assert f"error: {folder / 'dataset.json'}: is missing" in capsys.readouterr().err

    def test_name_a_dataset_that_is_not_there(self, command: Callable[..., int], tmp_path: Path,
                                              capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "nnUNet_raw").mkdir()
        assert command(["-d", "43", "--root", str(tmp_path)]) == 1
        assert "error: no dataset 43" in capsys.readouterr().err

    def test_leave_nothing_behind(self, command: Callable[..., int], tmp_path: Path) -> None:
        (tmp_path / "nnUNet_raw" / "Dataset042_Empty").mkdir(parents=True)
        command(["-d", "42", "--root", str(tmp_path)])
        assert not (tmp_path / "nnUNet_preprocessed").exists()

"""Validation of a trained fold: the same again as at the training's end, said and shown; that it cannot be shown ends nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from fuse4seg.errors import UnwritableFolderError
from fuse4seg.training import validation
from fuse4seg.training.run import Training, make_trainer
from fuse4seg.training.trainer import Fuse4SegTrainer
from fuse4seg.training.validation import validate


@pytest.fixture
def fold(trained_model: Path, own_results: Path) -> Path:
    """A trained fold without its validation."""
    copy = Path(shutil.copytree(trained_model, own_results / trained_model.parent.name / trained_model.name)) / "fold_0"
    shutil.rmtree(copy / "validation")
    return copy


@pytest.fixture
def trainer(fold: Path) -> Fuse4SegTrainer:
    return make_trainer(Training("990", "2d", 0, device="cpu"), validate_only=True)


def test_gives_what_the_training_gave_and_says_it_last(trainer: Fuse4SegTrainer, fold: Path, trained_model: Path,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(trainer, "say", said.append)
    validate(trainer)
    before, after = (place / "validation" for place in (trained_model / "fold_0", fold))
    wanted, summary = (json.loads((place / "summary.json").read_text()) for place in (before, after))
    assert json.dumps([summary["mean"], summary["foreground_mean"]]) == json.dumps([wanted["mean"], wanted["foreground_mean"]])
    assert said == [*(f"validation Dice of {label}: {scores['Dice']:.4f}" for label, scores in summary["mean"].items()),
                    f"Mean Validation Dice: {summary['foreground_mean']['Dice']:.4f}"]
    segmentation, = before.glob("*.nii.gz")
    assert (after / segmentation.name).read_bytes() == segmentation.read_bytes()
    assert (after / "report" / "index.html").is_file()
    assert not list(after.glob("*.npz"))


def test_that_cannot_be_shown_is_written_and_scored_all_the_same(trainer: Fuse4SegTrainer, fold: Path,
                                                                 monkeypatch: pytest.MonkeyPatch,
                                                                 caplog: pytest.LogCaptureFixture) -> None:
    def refused(folder: Path, **_: Any) -> None:
        raise UnwritableFolderError(folder, "No space left on device")

    monkeypatch.setattr(validation, "write_report", refused)
    with caplog.at_level("WARNING"):
        validate(trainer, save_probabilities=True)
    assert "the validation cases are not all in a report: cannot write to" in caplog.text
    assert (fold / "validation" / "summary.json").is_file()
    assert len(list((fold / "validation").glob("*.npz"))) == 1

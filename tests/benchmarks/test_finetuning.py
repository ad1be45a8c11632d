"""What fine-tuning saves: from which budget on it is no worse, and differences of the same cases."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def finetuning(load_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
    return load_benchmark("finetuning")


def scores(finetuning: ModuleType, scratch: dict[str, float], **tuned: dict[str, float]) -> dict[object, dict[str, float]]:
    """Of fold 0; ``p250`` is fine-tuned for a quarter."""
    return {finetuning.Trial(finetuning.SCRATCH, 1.0, 0): scratch,
            **{finetuning.Trial(finetuning.FINE_TUNED, int(part[1:]) / 1000, 0): dice for part, dice in tuned.items()}}


class TestNeeded:
    @pytest.mark.parametrize(("dice", "part"), [
        ((0.6, 0.7, 0.8, 0.9), 0.5), ((0.8, 0.8, 0.9, 0.9), 0.125), ((0.1, 0.2, 0.3, 0.9), 1.0), ((0.1, 0.2, 0.3, 0.4), None),
        ((0.9, 0.7, 0.8, 0.9), 0.5), ((0.9, 0.9, 0.9, 0.7), None)])
    def test_is_the_smallest_part_from_which_on_none_is_worse(self, finetuning: ModuleType, dice: tuple[float, ...],
                                                              part: float | None) -> None:
        tuned = {f"p{int(1000 * one)}": {"a": value} for one, value in zip(finetuning.PARTS, dice, strict=True)}
        assert finetuning.needed(scores(finetuning, {"a": 0.8}, **tuned)) == part

    def test_is_not_known_before_anything_is_fine_tuned(self, finetuning: ModuleType) -> None:
        assert finetuning.needed(scores(finetuning, {"a": 0.8})) is None


class TestCompare:
    def test_takes_differences_case_by_case_over_all_folds(self, finetuning: ModuleType) -> None:
        found = {**scores(finetuning, {"a": 0.5, "b": math.nan}, p500={"a": 0.6, "b": 0.4}),
                 finetuning.Trial(finetuning.SCRATCH, 1.0, 1): {"c": 0.9},
                 finetuning.Trial(finetuning.FINE_TUNED, 0.5, 1): {"c": 0.7}}
        whole, half = finetuning.compare(found)
        assert (whole["cases"], whole["dice"], whole["difference"]) == (2, pytest.approx(0.7), 0)
        assert (half["cases"], half["dice"], half["difference"]) == (3, pytest.approx(1.7 / 3), pytest.approx(-0.05))


class TestTrials:
    def test_are_the_whole_budget_from_scratch_and_every_part_fine_tuned(self, finetuning: ModuleType) -> None:
        found = finetuning.trials([0, 1])
        assert [(trial.start, trial.part) for trial in found if trial.fold == 0] == [
            ("from scratch", 1.0), *(("fine-tuned", part) for part in (0.125, 0.25, 0.5, 1.0))]
        assert len(found) == 10
        assert len(finetuning.trials([0], curve=True)) == 8


def test_dice_of_a_case_leaves_classes_out_that_are_not_defined(finetuning: ModuleType, tmp_path: Path) -> None:
    metrics = {"1": {"Dice": 0.5}, "2": {"Dice": math.nan}, "3": {"Dice": 0.7}}
    summary = {"metric_per_case": [{"prediction_file": "validation/a.nii.gz", "metrics": metrics}]}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    assert finetuning.dice_of(tmp_path / "summary.json") == {"a.nii.gz": pytest.approx(0.6)}


def test_an_epoch_cannot_be_divided(finetuning: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert finetuning.main(["503", "502", "2d", "--epochs", "12"]) == 1
    assert capsys.readouterr().err == "error: --epochs: must be a multiple of 8, of which an eighth is trained, got 12.\n"

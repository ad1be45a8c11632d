"""A budget in minutes becomes iterations, row by row."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from fuse4seg.comparison import pace
from fuse4seg.comparison.pace import with_equal_minutes
from fuse4seg.comparison.rows import Row
from fuse4seg.comparison.trainings import Budget, Trial
from fuse4seg.errors import FaultyTrainingsError, OptionError, UnreadableRecordError

#: Seconds per iteration.
SPEED = {"stacked": 0.5, "fuse4seg": 1.0, "slow": 30.0}


def trials(output: Path, *names: str, seeds: Sequence[int] = (0, 1)) -> list[Trial]:
    plan = ("Dataset990_Phantom", "2d", "Fuse4SegPlans", output)
    return [Trial(Row(name, ours=name != "stacked"), 0, seed, *plan, Budget(4, 7, 2))
            for seed in seeds for name in names]


class Timed:
    """Stands in for the short trainings; notes them."""

    def __init__(self, faults: list[str]) -> None:
        self.faults, self.run = faults, []

    def __call__(self, wanted: Sequence[Trial], *, devices: Sequence[str]) -> list[str]:
        assert devices == ["cpu"]
        self.run += wanted
        for trial in wanted:
            trial.place.mkdir(parents=True)
        return self.faults


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> Timed:
    stand_in = Timed([])
    monkeypatch.setattr(pace, "run_trials", stand_in)
    monkeypatch.setattr(pace, "seconds_per_iteration", lambda trial: SPEED[trial.row.name])
    return stand_in


def test_every_training_gets_the_iterations_that_its_row_does_in_the_time(tmp_path: Path, timed: Timed) -> None:
    given = with_equal_minutes(trials(tmp_path, "stacked", "fuse4seg"), 2, devices=["cpu"])
    # 120 s / 4 epochs / 0.5 s; stage 1 is two epochs more.
    assert [(trial.row.name, trial.seed, trial.budget) for trial in given] == [
        ("stacked", 0, Budget(4, 60, 2)), ("fuse4seg", 0, Budget(4, 20, 2)),
        ("stacked", 1, Budget(4, 60, 2)), ("fuse4seg", 1, Budget(4, 20, 2))]
    assert all(trial.purpose == "trainings" for trial in given)


def test_each_row_is_timed_once_in_a_short_training_of_stage_2(tmp_path: Path, timed: Timed) -> None:
    first = with_equal_minutes(trials(tmp_path, "stacked", "fuse4seg"), 2, devices=["cpu"])
    assert sorted((trial.row.name, trial.purpose, trial.budget.iterations) for trial in timed.run) == [
        ("fuse4seg", "pace", 10), ("stacked", "pace", 10)]
    assert next(trial for trial in timed.run if trial.row.ours).command("cpu")[-1] == "pretraining.epochs=0"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pace, "seconds_per_iteration", lambda _: 99.0)
        assert with_equal_minutes(trials(tmp_path, "stacked", "fuse4seg"), 2, devices=["cpu"]) == first
    assert len(timed.run) == 2


def test_too_little_time_is_told_with_what_would_do(tmp_path: Path, timed: Timed) -> None:
    with pytest.raises(OptionError, match=r"--minutes: 2 are too few .* 6 epochs of slow. Give at least 3, or plan fewer epochs"):
        with_equal_minutes(trials(tmp_path, "slow"), 2, devices=["cpu"])


def test_a_row_that_cannot_be_trained_is_named(tmp_path: Path, timed: Timed) -> None:
    timed.faults.append("slow, fold 0, seed 0: error")
    with pytest.raises(FaultyTrainingsError, match="slow, fold 0, seed 0: error"):
        with_equal_minutes(trials(tmp_path, "slow"), 60, devices=["cpu"])


@pytest.mark.parametrize("content", [[], {}, {"seconds_per_iteration": "1"}])
def test_a_damaged_record_is_named(tmp_path: Path, timed: Timed, content: object) -> None:
    with_equal_minutes(trials(tmp_path, "stacked"), 2, devices=["cpu"])
    record, = tmp_path.rglob("pace.json")
    record.write_text(json.dumps(content))
    with pytest.raises(UnreadableRecordError, match=r"pace\.json is no record of a row's pace"):
        with_equal_minutes(trials(tmp_path, "stacked"), 2, devices=["cpu"])

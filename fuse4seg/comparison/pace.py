"""A budget in minutes: the iterations that each row gets done in them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fuse4seg.comparison.scores import seconds_per_iteration
from fuse4seg.comparison.trainings import Budget, Trial, run_trials
from fuse4seg.errors import FaultyTrainingsError, OptionError, UnreadableRecordError
from fuse4seg.files import read_json, write_json

#: Short trainings that are timed; the first epoch is the slowest, and the median leaves it out.
TIMED = Budget(epochs=3, iterations=10, pretrain_epochs=0)


def with_equal_minutes(trials: Sequence[Trial], minutes: float, *, devices: Sequence[str]) -> list[Trial]:
    """The trials, each with as many iterations per epoch as its row gets done in the time.

    Every row is timed once, in a short training; as many run at a time as will later. Of ours, an iteration of stage 1 is counted
    like one of stage 2, which takes longer.

    Args:
        trials: With the epochs wanted.
        minutes: For all epochs of one training together, stage 1 included, and validation between the epochs.
        devices: See :func:`~fuse4seg.comparison.trainings.run_trials`.

    Raises:
        FaultyTrainingsError: A row cannot be trained.
        OptionError: The time is too short for an iteration per epoch.
    """
    firsts = {trial.row.name: _timed(trial) for trial in reversed(trials)}
    if faults := run_trials([trial for trial in firsts.values() if not _record(trial).is_file()], devices=devices):
        raise FaultyTrainingsError(faults)
    return [_within(minutes, _pace(firsts[trial.row.name]), trial) for trial in trials]


def _timed(trial: Trial) -> Trial:
    """A short training of the same row, in a place of its own beside the trainings."""
    changes = (f"training.epochs={TIMED.epochs}", f"training.iterations={TIMED.iterations}", "pretraining.epochs=0")
    return replace(trial, purpose="pace", budget=TIMED, changes=changes if trial.row.ours else ())


def _record(trial: Trial) -> Path:
    return trial.place / "pace.json"


def _pace(trial: Trial) -> float:
    """Seconds per iteration; measured once, so that a second run of a comparison has the same budget."""
    path = _record(trial)
    if not path.is_file():
        write_json({"seconds_per_iteration": seconds_per_iteration(trial)}, path)
    kept: Any = read_json(path, UnreadableRecordError)
    if not isinstance(kept, dict) or not isinstance(kept.get("seconds_per_iteration"), float):
        raise UnreadableRecordError(path, "is no record of a row's pace")
    return kept["seconds_per_iteration"]


def _within(minutes: float, pace: float, trial: Trial) -> Trial:
    budget = trial.budget
    epochs = budget.epochs + (budget.pretrain_epochs if trial.row.ours else 0)
    iterations = math.floor(60 * minutes / (pace * epochs))
    if not iterations:
        raise OptionError("--minutes", f"{minutes:g} are too few for an iteration in each of the {epochs} epochs of "
                                       f"{trial.row.name}. Give at least {pace * epochs / 60:.2g}, or plan fewer epochs.")
    changes = (f"training.iterations={iterations}",) if trial.row.ours else ()
    return replace(trial, budget=replace(budget, iterations=iterations), changes=changes)

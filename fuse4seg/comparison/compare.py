"""Train and score every row of a comparison under equal conditions."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from fuse4seg.comparison.pace import with_equal_minutes
from fuse4seg.comparison.prepared_data import prepare_row
from fuse4seg.comparison.rows import Row
from fuse4seg.comparison.scores import score_trial, score_trivial
from fuse4seg.comparison.trainings import Budget, Trial, run_trials
from fuse4seg.datasets.raw import foreground_classes, read_dataset_json
from fuse4seg.datasets.splits import require_fold
from fuse4seg.errors import ConfigurationNotFoundError, NotPreprocessedError, OptionError, UnreadableRecordError
from fuse4seg.files import make_writable_folder, read_json, write_json
from fuse4seg.paths import PREPROCESSED, data_root
from fuse4seg.plans import read_plans

RESULT = "comparison.json"


@dataclass(frozen=True)
class Comparison:
    """What is compared.

    Attributes:
        dataset: Full name.
        configuration: Such as 2d.
        plans: Their name.
        output: Folder of everything that is made; a second run goes on in it.
        rows: See :func:`~fuse4seg.comparison.rows.choose_rows`.
        folds: Of nnU-Net's splits.
        seeds: Each row is trained with each, in each fold.
        budget: Of each training.
        minutes: In place of the budget's iterations: as many per epoch as a row gets done in this time.
        devices: See :func:`~fuse4seg.comparison.trainings.run_trials`.
        command: How to repeat it, for the report.
    """

    dataset: str
    configuration: str
    plans: str
    output: Path
    rows: Sequence[Row]
    folds: Sequence[int] = (0,)
    seeds: Sequence[int] = (0,)
    budget: Budget = field(default_factory=Budget)
    minutes: float | None = None
    devices: Sequence[str] = ("cpu",)
    command: str = "f4s_compare"


def compare(wanted: Comparison) -> tuple[dict[str, Any], list[str]]:
    """Train what is not trained, score what is, and write comparison.json.

    Returns:
        What was written, and one line for each training that failed.

    Raises:
        NotPreprocessedError, ConfigurationNotFoundError, PlansNotFoundError: There is nothing to train on.
        OptionError: The dataset has no labels, the folder holds a comparison under other conditions, or the minutes are too few.
        FaultyTrainingsError: A row cannot be trained, so its pace cannot be measured.
    """
    source = data_root(PREPROCESSED) / wanted.dataset
    plans = read_plans(source / f"{wanted.plans}.json")
    if wanted.configuration not in plans["configurations"]:
        raise ConfigurationNotFoundError(wanted.configuration, wanted.plans, plans["configurations"])
    configuration = PlansManager(json.loads(json.dumps(plans))).get_configuration(wanted.configuration)
    if not (source / configuration.data_identifier).is_dir():
        raise NotPreprocessedError(source / configuration.data_identifier, wanted.configuration)
    if not foreground_classes(read_dataset_json(source)):
        raise OptionError("dataset", f"{wanted.dataset} has no labels, so there is no segmentation to compare.")
    for fold in wanted.folds:
        require_fold(source, fold)
    _require_same_conditions(make_writable_folder(wanted.output), _conditions(wanted))
    trials = [Trial(row, fold, seed, wanted.dataset, wanted.configuration, wanted.plans, wanted.output.absolute(), wanted.budget)
              for seed in wanted.seeds for fold in wanted.folds for row in wanted.rows]
    for row in wanted.rows:
        data = next(trial.data for trial in trials if trial.row is row)
        if any(not trial.finished for trial in trials if trial.row is row):
            prepare_row(row, source, data, plans=plans, configuration=wanted.configuration)
    if wanted.minutes is not None:
        trials = with_equal_minutes(trials, wanted.minutes, devices=wanted.devices)
    faults = run_trials(trials, devices=wanted.devices)
    device = torch.device(wanted.devices[0])
    scored = [score_trial(trial, plans=plans, source=source, device=device) for trial in trials if trial.finished]
    result = {**_conditions(wanted), "patch_size": list(configuration.patch_size), "batch_size": configuration.batch_size,
              "folds": list(wanted.folds), "seeds": list(wanted.seeds), "command": wanted.command,
              "machine": _machine(wanted.devices),
              "versions": ", ".join(f"{name} {version(name)}" for name in ("fuse4seg", "torch", "nnunetv2")),
              "results": scored, "trivial": _trivial(scored, source, plans, wanted)}
    write_json(result, wanted.output / RESULT)
    return result, faults


def _conditions(wanted: Comparison) -> dict[str, Any]:
    budget = wanted.budget.to_plain()
    if wanted.minutes is not None:
        budget["iterations"] = None
        budget["minutes"] = wanted.minutes
    return {"dataset": wanted.dataset, "configuration": wanted.configuration, "plans": wanted.plans, "budget": budget}


def _require_same_conditions(output: Path, conditions: dict[str, Any]) -> None:
    """What is written into the folder first, as trainings under other conditions must not stand in one table.

    Raises:
        OptionError: They are others than those of the comparison that is there.
    """
    path = output / "conditions.json"
    if path.is_file():
        known = read_json(path, UnreadableRecordError)
        if not isinstance(known, dict):
            raise UnreadableRecordError(path, "is no record of a comparison")
        for name, value in conditions.items():
            if known.get(name) != value:
                raise OptionError("-o", f"{output} holds a comparison with {name} {known.get(name)}, not {value}. "
                                        "Give another folder.")
    write_json(conditions, path)


def _trivial(scored: list[dict[str, Any]], source: Path, plans: dict[str, Any], wanted: Comparison) -> list[dict[str, Any]]:
    """Scores of the trivial fusions of every fold; kept beside the trainings."""
    found = []
    for fold in sorted({result["fold"] for result in scored}):
        cases = sorted(next(result for result in scored if result["fold"] == fold)["segmentation"]["cases"])
        kept = wanted.output / f"trivial_fold{fold}.json"
        if not kept.is_file():
            write_json(score_trivial(cases, source, plans=plans, configuration=wanted.configuration), kept)
        found.append(json.loads(kept.read_text()))
    return found


def _machine(devices: Sequence[str]) -> str:
    if any(device.startswith("cuda") for device in devices):
        return torch.cuda.get_device_name()
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads per training"

"""Train and score every row of a comparison under equal conditions."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from fuse4seg.comparison.methods import recipe_of, require_axes
from fuse4seg.comparison.pace import with_equal_minutes
from fuse4seg.comparison.picture import PICTURE, write_picture
from fuse4seg.comparison.prepared_data import prepare_row
from fuse4seg.comparison.rows import Row, fuses_first, what_fuses
from fuse4seg.comparison.scores import SCORES, score_fusion_alone, score_trial, score_trivial, validation_cases
from fuse4seg.comparison.trainings import Budget, Trial, place_of, run_trials
from fuse4seg.datasets.dataset_json import foreground_classes, read_dataset_json
from fuse4seg.datasets.splits import require_fold
from fuse4seg.errors import ConfigurationNotFoundError, NotPreprocessedError, OptionError, UnreadableRecordError
from fuse4seg.files import make_writable_folder, read_json, write_json
from fuse4seg.inference.model import load_model
from fuse4seg.paths import PREPROCESSED, data_root
from fuse4seg.plans import planned_recipe, read_plans
from fuse4seg.recipes.reading import to_plain
from fuse4seg.recipes.recipe import WITH_LABELS, Recipe

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
        minutes: In place of the iterations that the plans' recipe says: as many per epoch as a row gets done in this time.
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
    minutes: float | None = None
    devices: Sequence[str] = ("cpu",)
    command: str = "f4s_compare"


def compare(wanted: Comparison) -> tuple[dict[str, Any], list[str]]:
    """Train what is not trained, score what is, and write comparison.json.

    Returns:
        What was written, with what earlier calls left in the folder, and one line for each training that failed.

    Raises:
        NotPreprocessedError, ConfigurationNotFoundError, PlansNotFoundError: There is nothing to train on.
        OptionError: The plans segment nothing, the folder holds a comparison under other conditions or another row
            of the same name, or the minutes are too few.
        RecipeError: A row's changes do not do.
        FaultyTrainingsError: A row cannot be trained, so its pace cannot be measured.
    """
    source = data_root(PREPROCESSED) / wanted.dataset
    plans = read_plans(source / f"{wanted.plans}.json")
    if wanted.configuration not in plans["configurations"]:
        raise ConfigurationNotFoundError(wanted.configuration, wanted.plans, plans["configurations"])
    configuration = PlansManager(json.loads(json.dumps(plans))).get_configuration(wanted.configuration)
    if not (source / configuration.data_identifier).is_dir():
        raise NotPreprocessedError(source / configuration.data_identifier, wanted.configuration)
    labelled = bool(foreground_classes(read_dataset_json(source)))
    for fold in wanted.folds:
        require_fold(source, fold)
    recipe = planned_recipe(plans, source / f"{wanted.plans}.json")
    if labelled and not recipe.segments:
        raise OptionError("-p", f"{wanted.plans} segment nothing, and {wanted.dataset} has labels. Plan it with --recipe "
                                f"{WITH_LABELS}.")
    recipes = {row.name: recipe_of(row, plans) if row.ours or row.recipe else recipe for row in wanted.rows}
    for row in wanted.rows:
        require_axes(row, recipes[row.name], wanted.configuration, len(configuration.patch_size))
    budgets = {row.name: Budget.of(recipes[row.name] if row.ours else recipe) for row in wanted.rows}
    conditions = _conditions(wanted, recipe, configuration)
    _require_same_conditions(make_writable_folder(wanted.output), conditions)
    trials = [Trial(row, fold, seed, wanted.dataset, wanted.configuration, wanted.plans, wanted.output.absolute(),
                    budgets[row.name]) for seed in wanted.seeds for fold in wanted.folds for row in wanted.rows]
    earlier = _earlier(wanted.output)
    _require_same_rows(wanted.rows, earlier["results"])
    train_and_score = _segmentations if labelled else _fusions
    scored, faults = train_and_score(trials, wanted, source, plans)
    results = list({**{_key(found): found for found in earlier["results"]}, **{_key(found): found for found in scored}}.values())
    picture = write_picture(wanted.output / PICTURE, results, source, plans=plans, configuration=wanted.configuration)
    call = {"command": wanted.command, "machine": _machine(wanted.devices),
            "versions": ", ".join(f"{name} {version(name)}" for name in ("fuse4seg", "torch", "nnunetv2"))}
    result = {**conditions, "folds": sorted({found["fold"] for found in results}),
              "seeds": sorted({found["seed"] for found in results}),
              "calls": [*(known for known in earlier["calls"] if known != call), call],
              "results": results, "trivial": _trivial(results, source, plans, wanted), "picture": picture}
    write_json(result, wanted.output / RESULT)
    return result, faults


def _segmentations(trials: Sequence[Trial], wanted: Comparison, source: Path, plans: dict[str, Any],
                   ) -> tuple[list[dict[str, Any]], list[str]]:
    """Train and score rows that segment; the scores, and one line for each training that failed."""
    trials, faults = _fuse_first(trials, wanted, source, plans)
    trials, failed = _train(trials, wanted, source, plans)
    return [score_trial(trial, plans=plans, source=source) for trial in trials if trial.finished], faults + failed


def _fusions(trials: Sequence[Trial], wanted: Comparison, source: Path, plans: dict[str, Any],
             ) -> tuple[list[dict[str, Any]], list[str]]:
    """The same of rows that fuse alone, where nothing is labelled; rules and images need no training, and have no seed."""
    cases = {fold: validation_cases(source, fold, plans=plans, configuration=wanted.configuration) for fold in wanted.folds}

    def score(trial: Trial) -> dict[str, Any]:
        return score_fusion_alone(trial, cases[trial.fold], plans=plans, source=source)

    untrained = {(trial.row.name, trial.fold): replace(trial, seed=0) for trial in trials if not trial.row.ours}
    scored = [score(trial) for trial in untrained.values()]  # first, as an image may be missing
    trained, faults = _train([trial for trial in trials if trial.row.ours], wanted, source, plans)
    return [*scored, *(score(trial) for trial in trained if trial.finished)], faults


def _train(trials: Sequence[Trial], wanted: Comparison, source: Path, plans: dict[str, Any]) -> tuple[list[Trial], list[str]]:
    """Train what is not finished, on data that are made for it unless its leader's training has made them.

    Returns:
        The trials with the budget that they got, and one line for each training that failed.
    """
    folders = {trial.data: trial.row for trial in trials if trial.first is None and not trial.finished}
    for data, row in folders.items():
        prepare_row(row, source, data, plans=plans, configuration=wanted.configuration)
    budgeted = list(trials)
    if wanted.minutes is not None and trials:
        budgeted = with_equal_minutes(trials, wanted.minutes, devices=wanted.devices)
    return budgeted, run_trials(budgeted, devices=wanted.devices)


def _fuse_first(trials: Sequence[Trial], wanted: Comparison, source: Path, plans: dict[str, Any],
                ) -> tuple[list[Trial], list[str]]:
    """Train what fuses the image that a row segments, and fuse all cases.

    Returns:
        The trials that can go on, and one line for each training that failed.
    """
    budgets = {trial.row.name: Budget.of(recipe_of(what_fuses(trial.row), plans)) for trial in trials if fuses_first(trial.row)}
    waiting = [trial for trial in trials if trial.row.name in budgets]
    alone, faults = _train([trial.after_its_leader(budgets[trial.row.name]).first for trial in waiting], wanted, source, plans)
    ready = {trial: replace(trial, first=first) for trial, first in zip(waiting, alone, strict=True) if first.finished}
    device = torch.device(wanted.devices[0].partition(":")[0])
    for trial in ready.values():
        if not trial.finished:
            load = partial(load_model, trial.first.model, folds=[trial.fold], device=device, mirroring=False)
            prepare_row(trial.row, source, trial.data, plans=plans, configuration=wanted.configuration, leader=load)
    return [ready.get(trial, trial) for trial in trials if trial.row.name not in budgets or trial in ready], faults


def _conditions(wanted: Comparison, recipe: Recipe, configuration: ConfigurationManager) -> dict[str, Any]:
    budget = Budget.of(recipe).to_plain()
    if wanted.minutes is not None:
        budget["iterations"] = None
        budget["minutes"] = wanted.minutes
    method = {name: value for name, value in to_plain(recipe).items() if name not in ("name", "about")}
    return json.loads(json.dumps({
        "dataset": wanted.dataset, "configuration": wanted.configuration, "plans": wanted.plans, "budget": budget,
        "patch_size": list(configuration.patch_size), "batch_size": configuration.batch_size, "recipe": method}, default=int))


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
                other = "another recipe in the plans" if name == "recipe" else f"{name} {known.get(name)}, not {value}"
                raise OptionError("-o", f"{output} holds a comparison with {other}. Give another folder.")
    write_json(conditions, path)


def _earlier(output: Path) -> dict[str, Any]:
    """What earlier calls wrote: their calls, and the results of trainings that are still there."""
    path = output / RESULT
    if not path.is_file():
        return {"results": [], "calls": []}
    found = read_json(path, UnreadableRecordError)
    if not isinstance(found, dict) or not all(isinstance(found.get(name), list) for name in ("results", "calls")):
        raise UnreadableRecordError(path, "is no comparison of this version", mend="Remove it: trainings and scores are kept.")
    return {**found, "results": [result for result in found["results"]
                                  if (place_of(output, *_key(result)) / SCORES).is_file()]}


def _require_same_rows(rows: Sequence[Row], results: Sequence[dict[str, Any]]) -> None:
    """A name stands for one row, or trainings of two would stand in one line.

    Raises:
        OptionError: A row of the same name is another.
    """
    for row in rows:
        plain = row.to_plain()
        if any(found["name"] == row.name and {name: found.get(name) for name in plain} != plain for found in results):
            raise OptionError("--rows", f"the folder holds another row named {row.name}. Give this one another name.")


def _key(result: dict[str, Any]) -> tuple[str, int, int]:
    return result["name"], result["fold"], result["seed"]


def _trivial(scored: list[dict[str, Any]], source: Path, plans: dict[str, Any], wanted: Comparison) -> list[dict[str, Any]]:
    """Scores of the trivial fusions of every fold; kept beside the trainings."""
    found = []
    for fold in sorted({result["fold"] for result in scored}):
        one = next(result for result in scored if result["fold"] == fold)
        cases = sorted(one["segmentation" if "segmentation" in one else "fusion"]["cases"])
        kept = wanted.output / f"trivial_fold{fold}.json"
        if not kept.is_file():
            write_json(score_trivial(cases, source, plans=plans, configuration=wanted.configuration), kept)
        found.append(json.loads(kept.read_text()))
    return found


def _machine(devices: Sequence[str]) -> str:
    if any(device.startswith("cuda") for device in devices):
        return torch.cuda.get_device_name()
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads per training"

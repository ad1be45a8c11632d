"""The best of a dataset's configurations and ensembles by cross-validation, and post-processing for it."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np

from fuse4seg.background import WatchedPool
from fuse4seg.errors import FoldError
from fuse4seg.evaluation.bootstrap import PairedTest, defined_mean, mean_interval, paired_test, shown_interval
from fuse4seg.evaluation.learn_postprocessing import Learnt, Scoring, learn
from fuse4seg.evaluation.postprocessing import write_rules
from fuse4seg.evaluation.table import format_table
from fuse4seg.files import write_json
from fuse4seg.inference.ensemble import require_same_classes
from fuse4seg.inference.find_model import TrainedModel
from fuse4seg.selection.validated import Candidate, describe, paired, require_probabilities, validated

log = logging.getLogger(__name__)

#: In the dataset's results.
FIND_BEST = "find_best.json"


@dataclass(frozen=True)
class Result:
    """Scores of a candidate.

    Attributes:
        candidate: Which.
        values: Dice and HD95 (mm), shape (2, cases, classes), NaN where undefined.
    """

    candidate: Candidate
    values: np.ndarray

    @cached_property
    def dice(self) -> list[float]:
        """Mean over classes, for each case."""
        return [defined_mean(case) for case in self.values[0].tolist()]

    def mean(self, metric: int) -> float:
        """Mean over classes of their means over cases, as nnU-Net's foreground mean; 0 for Dice, 1 for HD95."""
        return defined_mean(defined_mean(column) for column in self.values[metric].T.tolist())


@dataclass(frozen=True)
class Choice:
    """What to predict with.

    Attributes:
        results: Of all candidates.
        best: The one of the highest mean Dice.
        chosen: The cheapest of those that cannot be told apart from it.
        tests: The best one's Dice against each other one's, case by case, by its name.
        seed: Of the intervals.
        learnt: Post-processing.
        faults: One line for each case that could not be scored.
    """

    results: tuple[Result, ...]
    best: Candidate
    chosen: Candidate
    tests: dict[str, PairedTest]
    seed: int
    learnt: Learnt
    faults: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """In one line."""
        best = f"{self.best.name} has the highest mean Dice"
        equal = [name for name, test in self.tests.items() if not _apart(test)]
        if not self.tests:
            return f"{self.best.name} is the only candidate"
        if not equal:
            return f"{best}, and can be told apart from all others: it is taken"
        cheaper = (f"{self.chosen.name} is the cheapest of these, and taken" if self.chosen is not self.best else
                   "none of these is cheaper: it is taken")
        return f"{best}, and cannot be told apart from {', '.join(equal)}; {cheaper}"

    @property
    def flags(self) -> str:
        """Of f4s_predict, that predict with what was chosen."""
        models = self.chosen.models
        trainers, plans, configurations = zip(*(model.folder.name.split("__") for model in models), strict=True)
        words = [f"-d {models[0].folder.parent.name}", f"-c {' '.join(configurations)}"]
        words += [f"{flag} {' '.join(names if len(set(names)) > 1 else names[:1])}"
                  for flag, names in (("-p", plans), ("-tr", trainers))]
        return " ".join([*words, f"-f {' '.join(map(str, self.chosen.folds))}"])

    def format(self) -> str:
        """Table of all candidates, the verdict, post-processing, and the command to predict with."""
        rows: list[list[str | float]] = []
        for result in self.results:
            name = result.candidate.name
            networks, parameters = result.candidate.cost
            test = self.tests.get(name)
            against = "" if test is None else f"{test.difference:.4f} ({shown_interval(test.interval)})"
            rows.append([name, networks, f"{parameters / 1e6:.2f}", result.mean(0),
                         shown_interval(mean_interval(result.dice, seed=self.seed)), result.mean(1), against])
        header = ["configuration", "networks", "million parameters", "Dice", "95 % interval", "HD95", "best minus this"]
        return "\n".join([format_table(header, rows), "", f"{self.verdict}.", *self._format_learnt(), "",
                          f"f4s_predict -i INPUT_FOLDER -o OUTPUT_FOLDER {self.flags}"])

    def _format_learnt(self) -> list[str]:
        learnt = self.learnt
        if len(learnt.folds) < 2:
            return ["post-processing: not learnt, as that takes two folds. Rules that were learnt before stay."]
        if not learnt.rules:
            return ["post-processing: no rule helped on held-out folds."]
        changes = ", ".join(f"{metric} {learnt.before[metric]:.4f} to {learnt.after[metric]:.4f}" for metric in learnt.before)
        return [f"post-processing: {'; '.join(map(str, learnt.rules))}.",
                f"On held-out folds, by rules that were learnt on the others: {changes}."]

    def to_plain(self) -> dict[str, Any]:
        """For find_best.json; NaN becomes None."""
        candidates = {}
        for result in self.results:
            candidate, test = result.candidate, self.tests.get(result.candidate.name)
            networks, parameters = candidate.cost
            candidates[candidate.name] = {
                "models": [model.folder.name for model in candidate.models], "networks": networks, "parameters": parameters,
                "Dice": _none_for_nan(result.mean(0)), "HD95": _none_for_nan(result.mean(1)),
                "interval": list(map(_none_for_nan, mean_interval(result.dice, seed=self.seed))),
                "best_minus_this": None if test is None else {
                    "pairs": test.pairs, "difference": _none_for_nan(test.difference),
                    "interval": list(map(_none_for_nan, test.interval)), "p": _none_for_nan(test.p), "told_apart": _apart(test)}}
        return {"folds": list(self.chosen.folds), "cases": self.results[0].values.shape[1], "seed": self.seed,
                "candidates": candidates, "best": self.best.name, "chosen": self.chosen.name, "verdict": self.verdict,
                "postprocessing": self.learnt.to_plain(), "predict": f"f4s_predict {self.flags}", "faults": list(self.faults)}


def find_best(models: Sequence[TrainedModel], *, folds: Sequence[int] | None = None, ensembles: bool = True, processes: int = 1,
              seed: int = 0) -> Choice:
    """Compare models and pairs of them on their validation cases, and learn post-processing for the one to take.

    Writes find_best.json into the dataset's results, postprocessing.json beside the chosen model (of an ensemble, the first in
    the alphabet), and the ensembles' segmentations.

    Args:
        models: Of one dataset, as ``chosen_models`` gives them.
        folds: That count; None for all that any of them has trained.
        ensembles: Also compare the mean of every two.
        processes: Cases scored at a time.
        seed: Of the bootstrap.

    Raises:
        FoldError: Folds are not trained or not validated, or no case can be scored.
        OptionError: Models segment different classes, or probabilities are not there for ensembles.
        UnwritableFolderError: The results folder cannot be written to.
    """
    descriptions = {model.folder.name: describe(model) for model in models}
    require_same_classes(descriptions, flag="-c")
    description = next(iter(descriptions.values()))
    candidates, faults = validated(models, folds, ending=description.file_ending), []
    if ensembles and len(candidates) > 1:
        require_probabilities(candidates)
    for one, other in list(combinations(candidates, 2)) if ensembles else ():
        ensemble, failed = paired(one, other, description)
        candidates.append(ensemble)
        faults += map(str, failed)
    with ExitStack() as stack:
        pool = stack.enter_context(closing(WatchedPool(processes))) if processes > 1 else None
        scorings = [Scoring(candidate.cases, description.dataset_json, description.reader, pool) for candidate in candidates]
        results = _scored(candidates, scorings)
        best, chosen, tests = choose(results, seed=seed)
        learnt = learn(scorings[[result.candidate for result in results].index(chosen)])
    faults += [fault for scoring in scorings for fault in scoring.faults.values()]
    choice = Choice(tuple(results), best, chosen, tests, seed, learnt, tuple(dict.fromkeys(faults)))
    folder = models[0].folder.parent
    write_json(choice.to_plain(), folder / FIND_BEST)
    if len(learnt.folds) > 1:
        write_rules(learnt.to_plain(), [model.folder for model in chosen.models])
    return choice


def _scored(candidates: Sequence[Candidate], scorings: Sequence[Scoring]) -> list[Result]:
    """Scores of the cases that all candidates have, and that could be scored of all."""
    sound = []
    for candidate, scoring in zip(candidates, scorings, strict=True):
        log.info("%s: %d cases of %d folds", candidate.name, len(candidate.cases), len(candidate.folds))
        scoring.table([()], range(len(candidate.cases)))
        sound.append({(case.fold, case.case): number for number, case in enumerate(candidate.cases)
                      if number not in scoring.faults})
    common = sorted(set.intersection(*map(set, sound)))
    if not common:
        raise FoldError(f"no validation case could be scored: {next(iter(scorings[0].faults.values()), 'there is none')}")
    return [Result(candidate, scoring.table([()], [numbers[key] for key in common])[:, 0])
            for candidate, scoring, numbers in zip(candidates, scorings, sound, strict=True)]


def choose(results: Sequence[Result], *, seed: int = 0) -> tuple[Candidate, Candidate, dict[str, PairedTest]]:
    """The best by mean Dice, the cheapest of those that cannot be told apart from it, and the tests of it against each other.

    Two are told apart where the 95 % bootstrap interval of the mean difference, case by case, lies above 0.

    Args:
        results: Of the same cases.
        seed: Of the bootstrap.
    """
    best = max(results, key=lambda result: (result.mean(0), [-part for part in result.candidate.cost]))
    tests = {result.candidate.name: paired_test(best.dice, result.dice, seed=seed) for result in results if result is not best}
    equal = [best, *(result for result in results if result is not best and not _apart(tests[result.candidate.name]))]
    return best.candidate, min(equal, key=lambda result: result.candidate.cost).candidate, tests


def _apart(test: PairedTest) -> bool:
    return test.interval[0] > 0


def _none_for_nan(value: float) -> float | None:
    return None if math.isnan(value) else value

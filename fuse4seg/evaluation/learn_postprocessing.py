"""Post-processing learnt on validation cases: a rule is kept only if it helps on folds that did not choose it."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from scipy import ndimage

from fuse4seg.background import WatchedPool
from fuse4seg.case_faults import fault_in_scoring
from fuse4seg.datasets.dataset_json import IGNORE, foreground_classes, label_values
from fuse4seg.errors import WorkerDiedError
from fuse4seg.evaluation.folders import Scores, read_pair
from fuse4seg.evaluation.hausdorff import hausdorff_95
from fuse4seg.evaluation.overlap import confusion
from fuse4seg.evaluation.postprocessing import FOREGROUND, HOLES, LARGEST, SMALLEST, Rule, apply_rules
from fuse4seg.evaluation.volumes import mask_of
from fuse4seg.progress import progress

log = logging.getLogger(__name__)

#: Below which components may be removed, mm3. Fixed, so that no case has a say in them.
VOLUMES = (10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
#: Differences of means that are rounding.
ROUNDING = 1e-9
Rules = tuple[Rule, ...]


@dataclass(frozen=True)
class ValidationCase:
    """A case that the network of its fold has not seen.

    Attributes:
        case: Its name.
        fold: That it was validated in.
        prediction: File of the predicted labels.
        reference: File of the true ones.
    """

    case: str
    fold: int
    prediction: Path
    reference: Path


@dataclass
class Scoring:
    """Scores of validation cases before and after rules, each computed once.

    Attributes:
        cases: All of them.
        dataset_json: Names labels or regions, and the ignore label.
        reader: nnU-Net's, of the files.
        pool: Of processes that score; None for this one.
        faults: One line for each case that cannot be scored, by its number; these are left out of everything.
    """

    cases: Sequence[ValidationCase]
    dataset_json: dict[str, Any]
    reader: type[BaseReaderWriter]
    pool: WatchedPool | None = None
    faults: dict[int, str] = field(default_factory=dict)
    _known: dict[tuple[int, Rules], tuple[Scores, ...]] = field(default_factory=dict)

    @property
    def classes(self) -> Mapping[str, int | tuple[int, ...]]:
        """What is scored, by name."""
        return foreground_classes(self.dataset_json)

    def table(self, options: Sequence[Rules], numbers: Sequence[int]) -> np.ndarray:
        """Dice and HD95 of some of the cases after each of several series of rules.

        Args:
            options: The series.
            numbers: Of the cases.

        Returns:
            Shape (2, options, cases, classes), NaN where undefined. Faulty cases are NaN.
        """
        wanted = [number for number in numbers if number not in self.faults
                  and any((number, rules) not in self._known for rules in options)]
        score = partial(_score_case, options=tuple(options), dataset_json=self.dataset_json, reader=self.reader)
        for number, result in zip(wanted, self._results(score, [self.cases[number] for number in wanted]), strict=True):
            if isinstance(result, str):
                self.faults[number] = result
            else:
                self._known.update({(number, rules): scores for rules, scores in zip(options, result, strict=True)})
        values = np.full((2, len(options), len(numbers), len(self.classes)), math.nan)
        for place, number in enumerate(numbers):
            for option, rules in enumerate(options):
                for index, scores in enumerate(self._known.get((number, rules), ())):
                    values[:, option, place, index] = scores.values["Dice"], scores.values["HD95"]
        return values


    def _results(self, score: Callable[[ValidationCase], Any], cases: Sequence[ValidationCase]) -> Iterator[Any]:
        """In the order of the cases."""
        watched = partial(progress, doing="scoring", unit="case", total=len(cases), leave=False)
        if self.pool is None:
            yield from watched(map(score, cases))
            return
        futures = [self.pool.submit(score, case) for case in cases]
        try:
            yield from watched(map(self.pool.result, futures))
        except BrokenProcessPool as error:
            self.pool.abandon()
            raise WorkerDiedError("scoring") from error


def _score_case(case: ValidationCase, *, options: Sequence[Rules], dataset_json: dict[str, Any],
                reader: type[BaseReaderWriter]) -> list[tuple[Scores, ...]] | str:
    """Scores of every class after every series of rules, or what is wrong with the case."""
    try:
        predicted, wanted = read_pair(case.case, case.prediction, case.reference, reader=reader,
                                      declared=label_values(dataset_json))
        spacing, ignored = wanted.geometry.spacing, dataset_json["labels"].get(IGNORE)
        before, truth = (image.voxels[0].astype(np.int32) for image in (predicted, wanted))
        if found := ndimage.find_objects(((before > 0) | (truth > 0)).view(np.uint8)):
            # A picture stays one.
            box = (slice(None), *found[0][1:]) if len(before) == 1 else found[0]
            before, truth = before[box], truth[box]
        classes = foreground_classes(dataset_json)
        known: dict[tuple[str, bytes], Scores] = {}
        done: dict[Rules, np.ndarray] = {(): before}
        return [tuple(_score(_after(rules, done, spacing), truth, name, entry, ignored=ignored, spacing=spacing, known=known)
                      for name, entry in classes.items()) for rules in options]
    except Exception as error:  # noqa: BLE001 (what is no fault of the case is raised again)
        return str(fault_in_scoring(error, case.case))


def _after(rules: Rules, done: dict[Rules, np.ndarray], spacing: Sequence[float]) -> np.ndarray:
    """A segmentation after rules, the first of which are mostly applied already."""
    if rules not in done:
        done[rules] = apply_rules(_after(rules[:-1], done, spacing), rules[-1:], spacing=spacing)
    return done[rules]


def _score(predicted: np.ndarray, truth: np.ndarray, name: str, entry: int | tuple[int, ...], *, ignored: int | None,
           spacing: Sequence[float], known: dict[tuple[str, bytes], Scores]) -> Scores:
    """Of one class; distances take their time, and most rules leave most classes as they were."""
    counted = np.ones(truth.shape, bool) if ignored is None else truth != ignored
    mask = mask_of(predicted, entry) & counted
    key = name, np.packbits(mask).tobytes()
    if key not in known:
        known[key] = Scores(confusion(predicted, truth, entry, ignore_label=ignored),
                            hausdorff_95(mask, mask_of(truth, entry) & counted, spacing=spacing))
    return known[key]


@dataclass(frozen=True)
class Learnt:
    """Rules, and what they do on cases that did not choose them.

    Attributes:
        rules: In the order in which they are applied; empty where none helped.
        gains: Of each: means of Dice and HD95 (mm) on held-out cases, after minus before.
        before, after: Means of Dice and HD95 over classes, of cases whose rules were learnt on the other folds.
        folds: That there were.
        cases: That could be scored.
        held_out: What ``after`` is the mean of, shape (2, cases, classes): Dice and HD95 of each case, NaN where undefined.
    """

    rules: Rules
    gains: tuple[dict[str, float], ...]
    before: dict[str, float]
    after: dict[str, float]
    folds: tuple[int, ...]
    cases: int
    held_out: np.ndarray = field(repr=False, compare=False)

    def to_plain(self) -> dict[str, Any]:
        """As postprocessing.json holds it; NaN becomes None."""
        held_out = {"before": _plain(self.before), "after": _plain(self.after)}
        rules = [{**rule.to_plain(), "gain": _plain(gain)} for rule, gain in zip(self.rules, self.gains, strict=True)]
        return {"folds": list(self.folds), "cases": self.cases, "rules": rules, "held_out": held_out}


def learn(scoring: Scoring) -> Learnt:
    """Choose rules on validation cases, nested: on all but one fold, judged on that fold, for every fold.

    Target by target (all foreground, then each class), the best of a few rules on the other folds is applied to each held-out
    fold. Where that lowers the mean Dice of no class there, and betters that of Dice or HD95, the best rule on all folds is
    kept, and the next is chosen after it. The whole way is then gone once more without each fold, and nothing is kept where
    the mean Dice of all classes on the folds left out is lower, or neither it nor HD95 better.

    Args:
        scoring: Of cases of two folds at least; of one fold, nothing is learnt.

    Example:
        >>> from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
        >>> learn(Scoring([], {"labels": {"background": 0, "core": 1}}, SimpleITKIO)).rules
        ()
    """
    scoring.table([()], range(len(scoring.cases)))
    numbers = [number for number in range(len(scoring.cases)) if number not in scoring.faults]
    folds = np.array([scoring.cases[number].fold for number in numbers], dtype=int)
    every = tuple(map(int, np.unique(folds)))
    before = scoring.table([()], numbers)[:, 0]
    if len(every) < 2:
        log.info("post-processing is learnt from two folds on: none of it here")
        return Learnt((), (), _means(before), _means(before), every, len(numbers), before)
    after = before.copy()
    for fold in every:
        inside = folds == fold
        rules, _ = _chosen(scoring, list(np.array(numbers)[~inside]), folds[~inside])
        after[:, inside] = scoring.table([rules], list(np.array(numbers)[inside]))[:, 0]
    rules, gains = _chosen(scoring, numbers, folds) if _is_better(before, after) else ((), [])
    after = after if rules else before
    return Learnt(rules, tuple(gains), _means(before, pairs=after), _means(after, pairs=before), every, len(numbers),
                  after)


def candidates(classes: Mapping[str, int | tuple[int, ...]]) -> list[list[Rule]]:
    """Rules to choose among, step by step: islands, then holes, of the foreground, then of each class or region.

    Args:
        classes: As dataset.json names them.

    Example:
        >>> [len(rules) for rules in candidates({"core": 1, "oedema": 2})]
        [7, 1, 7, 1, 7, 1]
        >>> len(candidates({"tumour": 1}))  # the class is all there is
        2
    """
    members = {name: tuple(np.atleast_1d(entry).tolist()) for name, entry in classes.items()}
    whole = tuple(sorted({value for values in members.values() for value in values}))
    parts = {name: values for name, values in members.items() if set(values) != set(whole)}
    steps = []
    for about, labels in [(FOREGROUND, whole), *parts.items()]:
        steps.append([Rule(about, labels, LARGEST), *(Rule(about, labels, SMALLEST, volume) for volume in VOLUMES)])
        steps.append([Rule(about, labels, HOLES)])
    return steps


def helps(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether no class's mean Dice is lower, and the mean Dice or HD95 better.

    Args:
        before: Dice and HD95 (mm), shape (2, cases, classes), NaN where undefined.
        after: Of the same cases.

    Example:
        >>> before = np.array([[[0.5], [0.7]], [[9.0], [3.0]]])
        >>> helps(before, np.array([[[0.5], [0.7]], [[4.0], [3.0]]]))
        True
        >>> helps(before, np.array([[[0.4], [0.9]], [[4.0], [3.0]]])), helps(before, before)
        (True, False)
    """
    lower = _class_means(after[0]) < _class_means(before[0]) - ROUNDING
    return bool(not lower.any() and _is_better(before, after))


def _is_better(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether the mean Dice over all classes is no lower, and it or HD95 better."""
    higher, closer = _gain(before, after)
    return higher >= -ROUNDING and (higher > ROUNDING or closer > ROUNDING)


def _chosen(scoring: Scoring, numbers: Sequence[int], folds: np.ndarray) -> tuple[Rules, list[dict[str, float]]]:
    """Rules that helped on held-out folds of some cases, and by how much; of a single fold, those that help there."""
    kept: Rules = ()
    gains = []
    for step in candidates(scoring.classes):
        options = [kept, *((*kept, rule) for rule in step)]
        table = scoring.table(options, numbers)
        held_out = table[:, 0].copy()
        parts = [folds == fold for fold in np.unique(folds)]
        for inside in parts if len(parts) > 1 else ():
            held_out[:, inside] = table[:, _best(table[:, :, ~inside])][:, inside]
        best = _best(table)
        if best and (len(parts) == 1 or helps(table[:, 0], held_out)):
            kept = options[best]
            gain, closer = _gain(table[:, 0], held_out)
            gains.append({"Dice": gain, "HD95": -closer})
    return kept, gains


def _best(table: np.ndarray) -> int:
    """The option that helps most against the first, by Dice, then HD95; 0 where none does. The earlier one of equals."""
    helpful = [option for option in range(1, table.shape[1]) if helps(table[:, 0], table[:, option])]
    gains = {option: tuple(round(gain, 9) for gain in _gain(table[:, 0], table[:, option])) for option in helpful}
    return max(helpful, key=lambda option: gains[option], default=0)


def _gain(before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
    """How much higher the mean Dice is, and by how many millimetres the mean HD95 lower; of cases where both are defined."""
    shift = _mean(_class_means(before[1] - after[1]))
    higher = _mean(_class_means(after[0])) - _mean(_class_means(before[0]))
    return (0.0 if math.isnan(higher) else higher), (0.0 if math.isnan(shift) else shift)


def _means(values: np.ndarray, *, pairs: np.ndarray | None = None) -> dict[str, float]:
    """Mean over classes; of HD95 over the cases that also have one in ``pairs``."""
    distances = values[1] if pairs is None else np.where(np.isnan(pairs[1]), math.nan, values[1])
    return {"Dice": _mean(_class_means(values[0])), "HD95": _mean(_class_means(distances))}


def _class_means(values: np.ndarray) -> np.ndarray:
    """Mean over cases (cases, classes) for each class; NaN where no case has a value."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nanmean(values, axis=0) if len(values) else np.full(values.shape[1:], math.nan)


def _mean(values: Iterable[float]) -> float:
    found = [value for value in values if not math.isnan(value)]
    return float(np.mean(found)) if found else math.nan


def _plain(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else round(value, 6) for name, value in values.items()}

"""How well a model's doubt predicts Dice on the cases that its folds were validated on: facts per case, and what they say."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fuse4seg.errors import UnreadableRecordError
from fuse4seg.files import read_json, write_json

log = logging.getLogger(__name__)

#: In a fold's folder: Dice, doubt and volume of each validated case, without names, so that models can be shared.
DOUBTS = "validation/doubt.json"
FACTS = {"dice": (0, 1), "doubt": (0, 1), "volume": (0, sys.float_info.max)}
#: Of the cases, that are called the worst, or the most doubtful.
PART = 5
#: A fifth of fewer is no case.
FEWEST_CASES = PART


def write_doubts(cases: Iterable[Mapping[str, float]], fold: Path) -> None:
    """Write what calibration needs of validated cases.

    Args:
        cases: "dice", "doubt" and "volume" (of all labels, millilitres) of each; those without a Dice are left out.
        fold: Its folder, with the folder of its validation.

    Raises:
        UnwritableFolderError: The operating system refused to write.
    """
    write_json([dict(case) for case in cases if not math.isnan(case["dice"])], fold / DOUBTS)


def read_doubts(path: Path) -> list[dict[str, float]]:
    """What :func:`write_doubts` wrote.

    Raises:
        UnreadableRecordError: It is missing, damaged, or something else.
    """
    damaged = partial(UnreadableRecordError, mend="Validate the fold again (f4s_train --val).")
    cases = read_json(path, damaged)
    if not isinstance(cases, list) or not all(_is_sound(case) for case in cases):
        raise damaged(path, "is no record of a validation's doubts")
    return cases


def model_calibration(folder: Path) -> dict[str, Any] | None:
    """Rank correlation of doubt with Dice, and share of the worst fifth that is in the most doubtful fifth.

    Fold "all" is left out: it is validated on what it was trained on.

    Args:
        folder: Of a model, with its folds.

    Returns:
        "cases", "rank_correlation", "worst_fifth_found", and "by_volume_alone" the same two of a doubt that is the greater the
        smaller the segmentation is. None where fewer than FEWEST_CASES are validated.
    """
    cases = list(_validated(folder))
    if len(cases) < FEWEST_CASES:
        return None
    dice = [case["dice"] for case in cases]
    return {"cases": len(cases), **calibration([case["doubt"] for case in cases], dice),
            "by_volume_alone": calibration([-case["volume"] for case in cases], dice)}


def calibration_line(found: Mapping[str, Any]) -> str:
    """The same in words.

    Example:
        >>> calibration_line({"cases": 20, "rank_correlation": -0.7, "worst_fifth_found": 0.75,
        ...                   "by_volume_alone": {"rank_correlation": None, "worst_fifth_found": 0.5}})
        'doubt, over 20 validated cases: rank correlation with Dice -0.70 (volume alone: none), worst fifth found 75 % (50 %)'
    """
    (rho, share), (by_volume, found_by_volume) = ((part["rank_correlation"], part["worst_fifth_found"])
                                                  for part in (found, found["by_volume_alone"]))
    ranks = ["none" if value is None else f"{value:.2f}" for value in (rho, by_volume)]
    return (f"doubt, over {found['cases']} validated cases: rank correlation with Dice {ranks[0]} (volume alone: {ranks[1]}), "
            f"worst fifth found {share:.0%} ({found_by_volume:.0%})").replace("%", " %")


def _validated(folder: Path) -> Iterator[dict[str, float]]:
    for path in sorted(folder.glob(f"fold_*/{DOUBTS}")):
        if path.parents[1].name == "fold_all":
            continue
        try:
            yield from read_doubts(path)
        except UnreadableRecordError as error:
            log.warning("doubt is calibrated without these cases: %s", error)


def _is_sound(case: Any) -> bool:
    return isinstance(case, dict) and case.keys() == FACTS.keys() and all(
        type(case[name]) in (int, float) and low <= case[name] <= high for name, (low, high) in FACTS.items())


def rank_correlation(doubt: Sequence[float], dice: Sequence[float]) -> float | None:
    """Spearman's rank correlation; -1 where the more doubtful case is always the worse one.

    Args:
        doubt: One value per case.
        dice: Of the same cases.

    Returns:
        From -1 to 1; None where all doubts, or all Dice, are equal.

    Source: scipy.stats.spearmanr.

    Example:
        >>> rank_correlation([0.9, 0.5, 0.2], [0.3, 0.8, 0.9])
        -1.0
    """
    if len(set(doubt)) < 2 or len(set(dice)) < 2:
        return None
    from scipy.stats import spearmanr  # takes its time to be imported, and few predictions need it

    return round(float(spearmanr(doubt, dice).statistic), 12)


def worst_found(doubt: Sequence[float], dice: Sequence[float]) -> float:
    """Share of the worst fifth of the cases that is in the most doubtful fifth; a fifth is rounded up.

    Args:
        doubt: One value per case, at least one.
        dice: Of the same cases.

    Returns:
        From 0 to 1; by chance it would be 1/5. Among equal values, those given first come first.

    Example:
        >>> worst_found([0.9, 0.1, 0.8, 0.2, 0.3, 0.1], [0.1, 0.9, 0.7, 0.2, 0.8, 0.9])
        0.5
    """
    count = math.ceil(len(dice) / PART)
    worst = set(np.argsort(dice, kind="stable")[:count].tolist())
    doubtful = np.argsort(-np.asarray(doubt, dtype=float), kind="stable")[:count].tolist()
    return len(worst.intersection(doubtful)) / count


def calibration(doubt: Sequence[float], dice: Sequence[float]) -> dict[str, float | None]:
    """Both figures.

    Args:
        doubt: One value per case, at least one.
        dice: Of the same cases.

    Raises:
        ValueError: The lengths differ.

    Example:
        >>> calibration([0.9, 0.5, 0.4, 0.3, 0.2], [0.2, 0.6, 0.7, 0.8, 0.9])
        {'rank_correlation': -1.0, 'worst_fifth_found': 1.0}
    """
    if len(doubt) != len(dice):
        raise ValueError(f"there are {len(doubt)} doubts of {len(dice)} cases")
    return {"rank_correlation": rank_correlation(doubt, dice), "worst_fifth_found": worst_found(doubt, dice)}

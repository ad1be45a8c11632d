"""How well a model's doubt predicts Dice on the cases that its folds were validated on: facts per case, and what they say."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from fuse4seg.errors import UnreadableRecordError
from fuse4seg.evaluation.calibration import FEWEST_CASES, calibration
from fuse4seg.files import read_json, write_json

log = logging.getLogger(__name__)

#: In a fold's folder: Dice, doubt and volume of each validated case, without names, so that models can be shared.
DOUBTS = "validation/doubt.json"
FACTS = {"dice": (0, 1), "doubt": (0, 1), "volume": (0, sys.float_info.max)}


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

"""How well doubt predicts Dice: by rank, and by how many of the worst cases are among the most doubtful."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import spearmanr

#: Of the cases, that are called the worst, or the most doubtful.
PART = 5
#: A fifth of fewer is no case.
FEWEST_CASES = PART


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

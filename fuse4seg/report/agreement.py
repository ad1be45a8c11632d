"""How far raters agree: shares of equal ratings, Cohen's kappa of each two, and Fleiss' kappa of all."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from typing import Any

from fuse4seg.report.ratings import VALUES, Ratings


def cohens_kappa(first: Sequence[str], second: Sequence[str]) -> float:
    """Agreement of two raters beyond chance.

    .. math:: (p_o - p_e) / (1 - p_e)

    of the share of equal ratings and that which their frequencies alone would give.

    Args:
        first: Ratings of cases.
        second: The other's of the same cases.

    Returns:
        At most 1; NaN without cases, and where both give one and the same rating to all.

    Source: Cohen, A coefficient of agreement for nominal scales, 1960.

    Example:
        >>> round(cohens_kappa(["pass", "pass", "fail", "fail"], ["pass", "fail", "fail", "fail"]), 3)
        0.5
    """
    count = len(first)
    if not count:
        return math.nan
    observed = sum(one == other for one, other in zip(first, second, strict=True)) / count
    ones, others = Counter(first), Counter(second)
    expected = sum(ones[value] * others[value] for value in ones) / count**2
    return math.nan if expected == 1 else (observed - expected) / (1 - expected)


def fleiss_kappa(ratings: Sequence[Sequence[str]]) -> float:
    r"""Agreement of several raters beyond chance.

    .. math:: (\bar P - \bar P_e) / (1 - \bar P_e)

    of the mean share of equal pairs of ratings of a case, and that which the frequencies of all ratings alone would give.

    Args:
        ratings: Of each case, the same number from 2 on.

    Returns:
        At most 1; NaN without cases, and where all ratings are one and the same.

    Source: Fleiss, Measuring nominal scale agreement among many raters, 1971.

    Example:
        >>> round(fleiss_kappa([["pass", "pass", "pass"], ["fail", "fail", "pass"]]), 3)
        0.25
    """
    if not ratings:
        return math.nan
    raters = len(ratings[0])
    counts = [Counter(case) for case in ratings]
    equal = [(sum(count**2 for count in case.values()) - raters) / (raters * (raters - 1)) for case in counts]
    observed = sum(equal) / len(ratings)
    total = sum(counts, Counter())
    expected = sum((count / (raters * len(ratings)))**2 for count in total.values())
    return math.nan if expected == 1 else (observed - expected) / (1 - expected)


def agreement_of(ratings: Sequence[Ratings]) -> dict[str, Any]:
    """For the page: each two raters, all of them, and who rated what.

    Args:
        ratings: Of one or more raters.

    Returns:
        ``raters``, ``pairs`` (raters, cases, share, kappa), ``fleiss`` (None of fewer than three raters), ``cases`` that all
        have rated, and ``table``: by case each rater's rating and note.
    """
    names = [one.rater for one in ratings]
    raters = [f"{name} ({number})" if names.count(name) > 1 else name for number, name in enumerate(names, 1)]
    pairs = []
    for (one, first), (other, second) in combinations(zip(raters, ratings, strict=True), 2):
        both = sorted(first.given.keys() & second.given.keys())
        given = [[rater.given[case] for case in both] for rater in (first, second)]
        share = sum(left == right for left, right in zip(*given, strict=True)) / len(both) if both else math.nan
        pairs.append({"raters": (one, other), "cases": len(both), "share": share, "kappa": cohens_kappa(*given)})
    shared = sorted(set.intersection(*(set(rater.given) for rater in ratings)))
    fleiss = fleiss_kappa([[rater.given[case] for rater in ratings] for case in shared]) if len(ratings) > 2 else None
    every = sorted(set().union(*(rater.rows for rater in ratings)))
    table = [(case, [_said(rater.rows.get(case)) for rater in ratings]) for case in every]
    return {"raters": raters, "pairs": pairs, "fleiss": fleiss, "cases": len(shared), "table": table, "values": VALUES}


def _said(row: Any) -> str:
    return "-" if row is None else ": ".join(part for part in (row["rating"], row["note"]) if part)

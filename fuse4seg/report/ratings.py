"""Ratings that readers export from a report: files of several raters, read, checked and merged, and how far they agree."""

from __future__ import annotations

import csv
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

from fuse4seg.errors import OptionError, UnreadableRecordError
from fuse4seg.files import read_json, written_whole

VALUES = ("pass", "fail", "unsure")
COLUMNS = ("report", "rater", "case", "rating", "note", "time")
#: What spreadsheets would run goes behind an apostrophe, in every file of ratings.
FORMULA = re.compile(r"^(?=[=+\-@\t\r])")
BEHIND = re.compile(r"^'(?=[=+\-@\t\r])")
MEND = "Export the ratings again."


@dataclass(frozen=True)
class Ratings:
    """One reader's.

    Attributes:
        rater: Their name, or that of the file.
        rows: By case: ``rating`` (one of VALUES, or empty beside a note), ``note``, ``time`` and ``report``.
    """

    rater: str
    rows: Mapping[str, Mapping[str, str]]

    @property
    def given(self) -> dict[str, str]:
        """Ratings by case, without empty ones."""
        return {case: row["rating"] for case, row in self.rows.items() if row["rating"]}


def read_ratings(path: Path, *, cases: Sequence[str]) -> Ratings:
    """Ratings of one reader, as a report exports them.

    Args:
        path: CSV or JSON.
        cases: Names of the cases in the report.

    Raises:
        UnreadableRecordError: It is missing, or holds no ratings.
        OptionError: It rates other cases.
    """
    damaged = partial(UnreadableRecordError, mend=MEND)
    found = _of_csv(path, damaged) if path.suffix.lower() == ".csv" else _of_json(path, damaged)
    rows = {row["case"]: row for row in found if row["rating"] or row["note"]}
    if wrong := next((row for row in rows.values() if row["rating"] not in (*VALUES, "")), None):
        raise damaged(path, f"rates {wrong['case']!r} as {wrong['rating']!r}, which is none of {', '.join(VALUES)}")
    if foreign := sorted(set(rows) - set(cases)):
        more = f" and {len(foreign) - 1} more" if foreign[1:] else ""
        raise OptionError("--ratings", f"{path} rates {foreign[0]!r}{more}, which this report does not hold. Give the ratings of "
                                       "this report's cases.")
    return Ratings(next((row["rater"] for row in rows.values() if row["rater"]), path.stem), rows)


def write_merged(ratings: Sequence[Ratings], path: Path) -> None:
    """Write all readers' ratings as one CSV, in the form of a report's own.

    Raises:
        UnwritableFolderError: The operating system refused to write.
    """
    with written_whole(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(COLUMNS)
        for one in ratings:
            for case, row in sorted(one.rows.items()):
                cells = {**row, "case": case, "rater": one.rater}
                table.writerow([FORMULA.sub("'", cells[column]) for column in COLUMNS])


def _of_csv(path: Path, damaged: Any) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream))
    except FileNotFoundError as missing:
        raise damaged(path, "is missing") from missing
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise damaged(path, f"cannot be read as CSV ({error})") from error
    if not rows or not {"case", "rating"} <= rows[0].keys():
        raise damaged(path, "has no columns case and rating, or no row")
    return [{column: BEHIND.sub("", row.get(column) or "") for column in COLUMNS} for row in rows]


def _of_json(path: Path, damaged: Any) -> list[dict[str, str]]:
    content = read_json(path, lambda *said: damaged(said[0], said[1] if said[1:] else "is missing"))
    rows = content.get("ratings") if isinstance(content, dict) else None
    if not isinstance(rows, dict) or not rows or not all(isinstance(row, dict) for row in rows.values()):
        raise damaged(path, "holds no ratings")
    shared = {column: str(content.get(column, "")) for column in ("report", "rater")}
    return [{**{column: str(row.get(column, "")) for column in COLUMNS}, **shared, "case": case} for case, row in rows.items()]


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

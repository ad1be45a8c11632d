"""Ratings that readers export from a report: files of several raters, read, checked and merged."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
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

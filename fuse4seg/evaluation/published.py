"""Rows of published fusion tables, to print under one's own; never compared with them without their conventions."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

from fuse4seg.evaluation.table import format_table

#: Of the metrics that the tables have; what is left of ours differs in its definition.
METRICS = ("EN", "SD", "SF", "MI", "SCD", "VIF", "Qabf")


@cache
def _content() -> dict[str, Any]:
    return json.loads((files("fuse4seg.evaluation") / "published.json").read_text(encoding="utf-8"))


def published_sets() -> list[str]:
    """Names of the test sets that there are rows of.

    Example:
        >>> published_sets()
        ['harvard-mri-ct', 'harvard-mri-pet', 'harvard-mri-spect', 'tno', 'roadscene']
    """
    return list(_content()["sets"])


def published_rows(name: str) -> list[dict[str, Any]]:
    """Rows of a test set: ``row``, ``source``, and the values of METRICS, None where undefined.

    Example:
        >>> [row["SD"] for row in published_rows("harvard-mri-ct") if row["row"] == "Fuse4Seg"]
        [76.19]
    """
    return _content()["sets"][name]["rows"]


def format_published(name: str, *, cases: int) -> str:
    """The rows as a table, each with the number of its source, and what the sources say of conventions.

    Args:
        name: One of :func:`published_sets`.
        cases: How many the user scored.

    Example:
        >>> print(format_published("tno", cases=3).splitlines()[0])
        published for tno, on 25 pairs (yours: 3); compare only on the same pairs, by the same conventions:
    """
    content, found = _content(), published_rows(name)
    sources = list(dict.fromkeys(row["source"] for row in found))
    rows: list[list[str | float]] = [[f"{row['row']} [{sources.index(row['source']) + 1}]",
                                      *("-" if row[metric] is None else f"{row[metric]:.2f}" for metric in METRICS)]
                                     for row in found]
    pairs = content["sets"][name]["pairs"]
    return "\n".join([
        f"published for {name}, on {pairs} pairs (yours: {cases}); compare only on the same pairs, by the same conventions:",
        format_table(["published", *METRICS], rows),
        *(f"[{number}] {content['sources'][source]}" for number, source in enumerate(sources, start=1))])

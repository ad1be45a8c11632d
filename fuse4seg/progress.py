"""Progress bars that stay quiet in a log file."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from operator import length_hint
from typing import TypeVar

from tqdm import tqdm

from fuse4seg.launch import is_first_rank

Item = TypeVar("Item")

#: Seconds between updates on a terminal, and in a file, where every update is a line to scroll past.
ON_TERMINAL, IN_FILE = 0.1, 30.0


def progress(items: Iterable[Item], doing: str, *, unit: str = "it", total: int | None = None,
             leave: bool = True) -> tqdm[Item]:
    """Iterate over ``items`` under a bar on stderr; of several processes that train together, the first has one.

    There is none of no items.

    Args:
        items: What to iterate over.
        doing: What the bar says.
        unit: Name of one item.
        total: Number of items where they do not know it.
        leave: Keep the bar when done.
    """
    nothing = (length_hint(items, 1) if total is None else total) == 0
    return tqdm(items, desc=doing, unit=unit, total=total, leave=leave, mininterval=_interval(),
                disable=nothing or not is_first_rank())


def whole_progress(doing: str, *, done: int, total: int) -> tqdm[None]:
    """A bar on stderr that is moved by hand, and estimates when all is done from the mean pace of what it saw itself.

    Args:
        doing: What the bar says.
        done: What it begins with.
        total: Where it ends.
    """
    return tqdm(desc=doing, initial=done, total=total, leave=False, smoothing=0, mininterval=_interval(),
                disable=not is_first_rank())


def _interval() -> float:
    return ON_TERMINAL if sys.stderr.isatty() else IN_FILE

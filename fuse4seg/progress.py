"""Progress bars that stay quiet in a log file."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

from fuse4seg.launch import is_first_rank

Item = TypeVar("Item")

#: Seconds between updates on a terminal, and in a file, where every update is a line to scroll past.
ON_TERMINAL, IN_FILE = 0.1, 30.0


def progress(items: Iterable[Item], doing: str, *, unit: str = "it", total: int | None = None,
             leave: bool = True) -> tqdm[Item]:
    """Iterate over ``items`` under a bar on stderr; of several processes that train together, the first has one.

    Args:
        items: What to iterate over.
        doing: What the bar says.
        unit: Name of one item.
        total: Number of items where they do not know it.
        leave: Keep the bar when done.
    """
    interval = ON_TERMINAL if sys.stderr.isatty() else IN_FILE
    return tqdm(items, desc=doing, unit=unit, total=total, leave=leave, mininterval=interval, disable=not is_first_rank())

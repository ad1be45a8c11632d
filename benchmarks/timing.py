"""What all timings share: contenders take turns in one run, and what is reported are ratios to a peer."""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Seconds = dict[str, list[float]]


def add_timing_flags(parser: argparse.ArgumentParser, *, rounds: int) -> None:
    """--rounds and -o."""
    parser.add_argument("--rounds", type=int, default=rounds, help="interleaved rounds (default: %(default)s)")
    parser.add_argument("-o", dest="output", type=Path, metavar="JSON", help="write the figures to this file, too")


def measure(contenders: Mapping[str, Callable[[], object]], *, rounds: int, warm_up: int = 1) -> Seconds:
    """Seconds of every contender in each round; the contenders take turns, and rounds for warming up are not counted."""
    seconds: Seconds = {name: [] for name in contenders}
    for number in range(rounds + warm_up):
        for name, act in contenders.items():
            start = time.perf_counter()
            act()
            if number >= warm_up:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def compare(seconds: Seconds, *, peer: str, expected: Mapping[str, float] | None = None) -> list[dict[str, Any]]:
    """Median seconds of each contender and, round by round, the ratio to ``peer``: median, lowest and highest.

    Args:
        seconds: Of each contender, as :func:`measure` gives them.
        peer: The contender that the others are compared with.
        expected: By contender, what the ratios are divided by; 1 where it says nothing.
    """
    rows = []
    for name, values in seconds.items():
        share = (expected or {}).get(name, 1.0)
        ratios = [value / other / share for value, other in zip(values, seconds[peer], strict=True)]
        rows.append({"contender": name, "seconds": statistics.median(values), "ratio": statistics.median(ratios),
                     "lowest": min(ratios), "highest": max(ratios)})
    return rows


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows of equal keys as a table."""
    from fuse4seg.evaluation.table import format_table

    print(format_table(list(rows[0]), [list(row.values()) for row in rows], decimals=3))


def save(tables: Mapping[str, Any], output: Path | None, *, device: str = "cpu") -> None:
    """Write tables, and what they were measured on, to ``output`` if there is one."""
    import torch

    from fuse4seg import __version__
    from fuse4seg.files import write_json

    if output is not None:
        write_json({**tables, "device": device if device == "cpu" else torch.cuda.get_device_name(),
                    "processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads(),
                    "torch": torch.__version__, "fuse4seg": __version__}, output)

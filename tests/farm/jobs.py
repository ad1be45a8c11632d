"""Work for tests of farms, in a module that workers can import."""

from __future__ import annotations

import os
import signal
import time
from functools import partial
from pathlib import Path

from fuse4seg.errors import FaultyImageError
from fuse4seg.farm.farm import Job


class AcceleratorError(RuntimeError):
    """As PyTorch raises one of a GPU that is lost."""


def make(place: Path) -> Path:
    """Note that a worker has made what it holds."""
    (place / f"made_{os.getpid()}").touch()
    return place


def work(place: Path, item: str) -> tuple[str, int]:
    """Do what the item's name says; those that die note each time."""
    kind = item.partition("_")[0]
    if kind == "faulty":
        raise FaultyImageError(item, "it is constant")
    if kind == "broken":
        raise IndexError("out of range")
    if kind == "full":
        raise OSError(28, "no space left", "out")
    if kind in ("dies", "lost", "once"):
        notes = len(list(place.glob(f"{item}_died_*")))
        if kind != "once" or not notes:
            (place / f"{item}_died_{notes}").touch()
            if kind == "lost":
                raise AcceleratorError("an illegal memory access was encountered")
            os.kill(os.getpid(), signal.SIGKILL)
    if kind == "slow":
        time.sleep(0.5)
    return item.upper(), os.getpid()


def die_once(place: str) -> str:
    """Kill the first worker that is asked."""
    try:
        Path(place, "died").touch(exist_ok=False)
    except FileExistsError:
        return "here"
    os.kill(os.getpid(), signal.SIGKILL)


def die(_place: str) -> None:
    """Kill every worker that is asked."""
    os.kill(os.getpid(), signal.SIGKILL)


def job(place: Path) -> Job:
    """The job of these."""
    return Job(partial(make, place), work, "working")

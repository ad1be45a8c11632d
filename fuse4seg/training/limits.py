"""When a training ends before its last epoch: when nothing improves any more, and when its time is up."""

from __future__ import annotations

import math
import re
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from fuse4seg.errors import OptionError
from fuse4seg.ranks import of_first

#: Epochs whose seconds are the pace.
RECENT = 10
HOURS_AND_MINUTES = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)min)?")


@dataclass(frozen=True)
class Limits:
    """What ends a training early.

    Attributes:
        patience: Epochs of stage 2 without a better moving average of the validation's measure; infinite for any number.
        seconds: For both stages together, checkpoints included, the validation of the fold at the end not.
    """

    patience: float = math.inf
    seconds: float = math.inf

    @classmethod
    def from_options(cls, *, patience: int | None, max_time: str | None) -> Limits:
        """Read --patience and --max_time, None where they are not given.

        Raises:
            OptionError: One is no number of epochs from 1 on, or no time.
        """
        if patience is not None and patience < 1:
            raise OptionError("--patience", f"must be at least 1, got {patience}.")
        return cls(math.inf if patience is None else patience, math.inf if max_time is None else seconds_of(max_time))


def seconds_of(words: str) -> float:
    """Seconds of hours and minutes.

    Raises:
        OptionError: It is no time, or none at all.

    Example:
        >>> seconds_of("1.5h"), seconds_of("1h30min"), seconds_of("90min")
        (5400.0, 5400.0, 5400.0)
    """
    found = HOURS_AND_MINUTES.fullmatch(words)
    hours, minutes = (float(part or 0) for part in found.groups()) if found else (0, 0)
    if not 0 < (seconds := 3600 * hours + 60 * minutes) < math.inf:
        raise OptionError("--max_time", f"{words} is not understood. Give hours (11h), minutes (90min), or both (1h30min).")
    return seconds


def epochs_since_best(measure: Sequence[float]) -> int:
    """Epochs since the last one that was better than all before it, as nnU-Net keeps its best checkpoint.

    Args:
        measure: Of each epoch, the more the better; NaN is no better than anything.

    Example:
        >>> epochs_since_best([0.1, 0.3, 0.2, 0.3])
        2
    """
    return len(measure) - 1 - int(np.nan_to_num(measure, nan=-math.inf).argmax()) if len(measure) else 0


class Deadline:
    """When everything must be saved, counted from now.

    Args:
        seconds: Until then.
    """

    def __init__(self, seconds: float = math.inf) -> None:
        self._end = time.monotonic() + seconds
        self._saving = 0.0

    def left(self) -> float:
        """Seconds until it is time to save, for which the longest save so far is kept free; negative afterwards."""
        return self._end - self._saving - time.monotonic()

    def after(self, part: float) -> Deadline:
        """One that comes when ``part``, in [0, 1], of the time left is over."""
        return Deadline(part * max(0.0, self.left()) if part else 0.0)

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Measure a save, which the block does."""
        began = time.monotonic()
        yield
        self._saving = max(self._saving, time.monotonic() - began)


class Pace:
    """How many epochs of a stage a deadline allows, by the seconds of the latest ones; counted from now.

    Args:
        deadline: Of the stage.
    """

    def __init__(self, deadline: Deadline) -> None:
        self._deadline, self._began = deadline, time.monotonic()
        self._seconds: deque[float] = deque(maxlen=RECENT)

    def epoch_is_done(self, *, whole: bool) -> None:
        """Measure an epoch with all that belongs to it; one that was not ``whole`` says nothing."""
        now = time.monotonic()
        if whole:
            self._seconds.append(now - self._began)
        self._began = now

    def reachable(self, *, done: int, planned: int) -> int:
        """Epochs, of those planned, that are over in time, from ``done`` on; all until one has been measured. By the first rank.

        What the slowest of the latest epochs took longer than their mean is kept free, or else the last would be cut short.
        """
        return of_first(self._reachable(done, planned))

    def _reachable(self, done: int, planned: int) -> int:
        left = self._deadline.left()
        if not self._seconds or left == math.inf:
            return planned
        mean = sum(self._seconds) / len(self._seconds)
        further = math.floor(max(0.0, left - (max(self._seconds) - mean)) / max(mean, 1e-9))
        return min(planned, done + further)

"""When a training is saved: after so many epochs, so many minutes, and when a signal or the time ends it."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from fuse4seg.errors import OptionError, WorkerDiedError
from fuse4seg.launch import is_first_rank, stands_in_group
from fuse4seg.model_errors import LostRankError, TrainingStoppedError
from fuse4seg.ranks import largest
from fuse4seg.signals import handled
from fuse4seg.training.data import Batch
from fuse4seg.training.limits import Deadline

MINUTES = "min"
#: What schedulers send before they kill, and what Ctrl-C sends.
STOPPING = (signal.SIGTERM, signal.SIGINT)
NOTED = b"\nstopping: the iteration is finished and saved first; a second signal stops at once\n"
#: Seconds in which a signal to the whole process group reaches all of it.
SPREADING = 1.0


@dataclass(frozen=True)
class SaveEvery:
    """How often the latest checkpoint is written.

    Attributes:
        epochs: After so many epochs, at least 1.
        minutes: And, in the middle of an epoch, so many minutes after the last one, above 0.
    """

    epochs: int = 1
    minutes: float = 30.0

    @classmethod
    def from_words(cls, words: Sequence[str]) -> SaveEvery:
        """Read a whole number of epochs, a number of minutes ("30min"), or both; what is not given is not looked at.

        Raises:
            OptionError: A word is neither, or given twice.
        """
        given: dict[str, float] = {}
        for word in words:
            name = "minutes" if word.endswith(MINUTES) else "epochs"
            number = (float if name == "minutes" else int)
            try:
                value = number(word.removesuffix(MINUTES))
            except ValueError:
                value = 0
            if not 0 < value < float("inf") or name in given:
                raise OptionError("--save_every", f"{' '.join(words)} is not understood. Give a number of epochs (5), of minutes "
                                                  f"(30min), or both (5 30min).")
            given[name] = value
        return cls(int(given.get("epochs", sys.maxsize)), given.get("minutes", float("inf")))


@dataclass
class StopRequest:
    """Whether a training was asked to end, and by which signal."""

    signal: signal.Signals | None = None

    def comes(self) -> bool:
        """Whether it was asked, or is within a second: a scheduler's signal may reach the background processes first."""
        until = time.monotonic() + SPREADING
        while self.signal is None and time.monotonic() < until:
            time.sleep(0.05)
        return self.signal is not None


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Within the block, the first SIGTERM or SIGINT is only noted; a second one does what it did before.

    Python handles signals in the main thread alone; elsewhere nothing is noted.
    """
    request, noted = StopRequest(), 0.0

    def note(number: int, _frame: object) -> None:
        nonlocal noted
        if request.signal is not None:
            # Of several processes, one may get the same signal again from whoever started it.
            if time.monotonic() - noted > SPREADING:
                restore()
                os.kill(os.getpid(), number)
            return
        request.signal, noted = signal.Signals(number), time.monotonic()
        if not stands_in_group():
            restore()
        if is_first_rank():
            with suppress(OSError):
                os.write(2, NOTED)  # not through the log, which the signal may have interrupted in the middle of a line

    with handled(note, STOPPING) as restore:
        yield request


class MidEpoch:
    """Saves in the middle of an epoch, and ends the training there when it was asked to.

    Args:
        save: Writes everything that has been done so far; returns where.
        minutes: Between two saves.
        stop: Notes whether the training was asked to stop.
        deadline: Of the whole training.
    """

    def __init__(self, save: Callable[[], Path], *, minutes: float, stop: StopRequest, deadline: Deadline) -> None:
        self._save, self._minutes, self.stop, self._deadline = save, minutes, stop, deadline
        self.is_saved()

    def is_saved(self) -> None:
        """Count the minutes anew: something else has saved."""
        self._since = time.monotonic()

    def after_iteration(self) -> None:
        """Save if it is time to, on any rank.

        Raises:
            TrainingStoppedError: The training was asked to stop, or its time is up, and everything is saved.
        """
        asked, is_up, due = largest(self.stop.signal or 0, self._deadline.left() < 0,
                                    time.monotonic() - self._since >= self._minutes * 60)
        if asked:
            raise TrainingStoppedError(signal.Signals(int(asked)), self._save())
        if is_up:
            raise TrainingStoppedError(signal.SIGTERM, self._save(), by="--max_time")
        if due:
            self._save()
            self.is_saved()

    def draw(self, batches: Iterator[Batch]) -> Batch:
        """The next batch.

        Raises:
            TrainingStoppedError: There is none because a scheduler's signal ended the background processes along with us.
            WorkerDiedError: A background process was killed by itself.
            LostRankError: One of another rank was.
        """
        batch = fault = None
        try:
            batch = next(batches)
        except WorkerDiedError as error:
            fault = error
        lost, = largest(fault is not None)
        if not lost:
            return batch
        if largest(self.stop.comes())[0]:
            self.after_iteration()
        raise LostRankError if fault is None else fault

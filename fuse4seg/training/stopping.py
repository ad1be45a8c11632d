"""SIGTERM and SIGINT during a training: noted, so that it can end where nothing is lost."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from fuse4seg.signals import handled

#: What schedulers send before they kill, and what Ctrl-C sends.
STOPPING = (signal.SIGTERM, signal.SIGINT)
NOTED = b"\nstopping: the iteration is finished and saved first; a second signal stops at once\n"
#: Seconds in which a signal to the whole process group reaches all of it.
SPREADING = 1.0


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
    request = StopRequest()

    def note(number: int, _frame: object) -> None:
        request.signal = signal.Signals(number)
        restore()
        with suppress(OSError):
            os.write(2, NOTED)  # not through the log, which the signal may have interrupted in the middle of a line

    with handled(note, STOPPING) as restore:
        yield request

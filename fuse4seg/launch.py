"""Several processes of one command on this machine, which train together: started, watched, and ended together."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import NamedTuple

from fuse4seg.machine import usable_cores
from fuse4seg.model_errors import LostRankError, RanksError
from fuse4seg.signals import handled

log = logging.getLogger(__name__)

#: Names the file into which a rank writes what it would else print last, so that what all say is said once.
LAST_WORDS = "F4S_LAST_WORDS"
FORWARDED = (signal.SIGTERM, signal.SIGINT)
#: Seconds between looks; and those in which the others may end by themselves once one has failed.
LOOK_EVERY, GRACE = 0.1, 10.0
#: Lines of an unexpected failure that are shown.
SHOWN = 20


class Ended(NamedTuple):
    """How a rank ended.

    Attributes:
        rank: Its number.
        status: Exit status, negative for a signal.
        words: What it said last, "" for nothing.
        log: What else it said.
    """

    rank: int
    status: int
    words: str
    log: str

    @property
    def is_first_cause(self) -> bool:
        """Whether it failed by itself, and not because another rank did, or as it was asked to stop."""
        return self.status not in (0, LostRankError.status)

    def account(self) -> str:
        """Why it ended, in one line or, of an unexpected failure, in the last ones of its log."""
        if self.status < 0:
            return (f"was ended by {signal.Signals(-self.status).name}, and the others with it. The last checkpoint is kept: go "
                    "on with --c.")
        said = self.words.removeprefix("error: ") or "\n".join(self.log.splitlines()[-SHOWN:])
        return f"said: {said}" if said else f"ended with status {self.status}."


def launch(command: Sequence[str], count: int) -> int:
    """Run a command as ``count`` ranks of one group, found by torchrun's variables; the first one's output is shown.

    Signals go to all ranks. Once one has failed, the others have GRACE to end.

    Args:
        command: Program and arguments of each.
        count: How many, at least 1.

    Returns:
        0.

    Raises:
        RanksError: One failed, or all were stopped: it says which and why, and with which status to end.
    """
    with TemporaryDirectory(prefix="f4s_ranks_") as place:
        ranks = [_start(command, rank, count, port, Path(place)) for port in [_free_port()] for rank in range(count)]
        asked: list[int] = []

        def forward(number: int, _frame: object) -> None:
            asked.append(number)
            for rank in ranks:
                rank.send_signal(number)

        with handled(forward, FORWARDED):
            try:
                _wait(ranks)
            finally:
                if _end(ranks) or ranks[0].returncode < 0:
                    sys.stderr.write("\n")  # the first one's bar was cut off in its line
        ended = [Ended(number, rank.returncode, _read(_words(Path(place), number)), _read(_log(Path(place), number)))
                 for number, rank in enumerate(ranks)]
    if any(one.status for one in ended):
        raise _failure(ended, asked=bool(asked))
    return 0


def leave_last_words(said: str) -> bool:
    """Leave what a command says last to :func:`launch`; False where it did not start this process."""
    path = os.environ.get(LAST_WORDS)
    if path is None:
        return False
    Path(path).write_text(said)
    return True


def is_first_rank() -> bool:
    """Whether this process speaks for those that were started with it, by :func:`launch` or torchrun; alone it does."""
    return os.environ.get("RANK", "0") == "0"


def ranks_here(asked: int = 1) -> int:
    """Processes on this machine that train together: those that this one was started with, else as many as are asked for."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", max(1, asked)))


def stands_in_group() -> bool:
    """Whether this process was started as one of several: by torchrun, or by :func:`launch`."""
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def stop_with_launcher() -> None:
    """Ask this process to stop once the one that launched it is gone, however that ended; does nothing in any other."""
    if LAST_WORDS in os.environ:
        Thread(target=_watch, args=(os.getppid(),), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


def _start(command: Sequence[str], rank: int, count: int, port: int, place: Path) -> subprocess.Popen[bytes]:
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, usable_cores() // count)))
    of_rank = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1",
               "MASTER_PORT": port, "OMP_NUM_THREADS": threads, LAST_WORDS: _words(place, rank)}
    # A session of its own: Ctrl-C reaches it through here alone, and its background processes can be ended with it.
    with _log(place, rank).open("wb") as stream:
        return subprocess.Popen(command, env={**os.environ, **{name: str(value) for name, value in of_rank.items()}},
                                stdout=stream if rank else None, stderr=stream if rank else None, start_new_session=True)


def _wait(ranks: Sequence[subprocess.Popen[bytes]]) -> None:
    """Until all have ended, or GRACE after the first failure."""
    until = float("inf")
    while any(rank.poll() is None for rank in ranks) and time.monotonic() < until:
        if until == float("inf") and any(rank.poll() for rank in ranks):
            until = time.monotonic() + GRACE
        time.sleep(LOOK_EVERY)


def _end(ranks: Sequence[subprocess.Popen[bytes]]) -> bool:
    """End what still runs, with its background processes; one that is ended here is no first cause. Whether the first was one."""
    first_ran = ranks[0].poll() is None
    for rank in ranks:
        if rank.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(rank.pid, signal.SIGKILL)
            rank.wait()
            rank.returncode = LostRankError.status
    return first_ran


def _failure(ended: Sequence[Ended], *, asked: bool) -> RanksError:
    causes = [one for one in ended if one.is_first_cause] or [one for one in ended if one.status]
    first = next((one for one in causes if one.words), causes[0])
    if asked:
        return RanksError(first.words or "stopped", status=first.status if first.status > 0 else 128 - first.status)
    accounts = {one.rank: one.account() for one in causes}
    if len(set(accounts.values())) == 1 and (len(causes) == len(ended) or (first.rank == 0 and first.words)):
        status = max(1, first.status) if first.is_first_cause else 1  # 143 where one was asked to stop, and all did
        return RanksError(first.words.removeprefix("error: ") or first.account(), status=status)
    return RanksError("\n".join(f"rank {rank} {said}" for rank, said in accounts.items()))


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _words(place: Path, rank: int) -> Path:
    return place / f"words_{rank}"


def _log(place: Path, rank: int) -> Path:
    return place / f"log_{rank}"


def _read(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""

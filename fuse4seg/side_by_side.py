"""Commands side by side: processes of their own, one at a time on each device, each with its own log."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from fuse4seg.machine import see_only
from fuse4seg.progress import progress
from fuse4seg.signals import Terminated


def own_command(module: str, *words: str) -> list[str]:
    """Words of a process that runs a command of ours with this Python, whatever the PATH holds.

    Args:
        module: Its name in ``fuse4seg.cli``.
        *words: Behind the command's name.
    """
    return [sys.executable, "-c", f"import sys; from fuse4seg.cli.{module} import main; sys.exit(main())", *words]


@dataclass(frozen=True, eq=False)
class Errand:
    """A command that is to run; no other is equal to it.

    Attributes:
        name: For messages.
        words: Gives those of its process, of the kind of device that it gets.
        log: Gets what it says, after what it said before.
        environment: Of its process.
    """

    name: str
    words: Callable[[str], Sequence[str]]
    log: Path
    environment: Mapping[str, str]


def run_errands(errands: Sequence[Errand], *, devices: Sequence[str], doing: str, unit: str) -> Iterator[tuple[Errand, int]]:
    """Run commands, as many at a time as there are devices; one that fails leaves the others.

    Args:
        errands: In the order wanted.
        devices: "cpu", "mps", "cuda" or "cuda:1"; one named twice takes two at a time.
        doing: What the bar says.
        unit: What it counts.

    Yields:
        Those that have ended, with their exit statuses.
    """
    free: SimpleQueue[str] = SimpleQueue()
    for device in devices:
        free.put(device)
    processes: list[subprocess.Popen] = []
    with ThreadPoolExecutor(len(devices)) as pool:
        running = {pool.submit(_run, errand, free, processes): errand for errand in errands}
        try:
            for done in progress(as_completed(running), doing, unit=unit, total=len(errands)):
                yield running[done], done.result()
        except KeyboardInterrupt:
            # The processes get the terminal's Ctrl-C, too; what has not begun must not begin.
            pool.shutdown(cancel_futures=True)
            raise
        except Terminated:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                process.terminate()  # a training of ours saves first; those that have ended do not mind
            raise


def _run(errand: Errand, free: SimpleQueue[str], processes: list[subprocess.Popen]) -> int:
    device = free.get()
    try:
        environment = dict(errand.environment)
        see_only(device, environment)
        words = errand.words(device.partition(":")[0])
        errand.log.parent.mkdir(parents=True, exist_ok=True)
        with errand.log.open("a") as log:
            processes.append(process := subprocess.Popen(words, env=environment, stdout=log, stderr=log))
            return process.wait()
    finally:
        free.put(device)


def last_line(log: Path) -> str:
    """What a log says about its end, and where it is: our own error, else the first exception, else the last line."""
    lines = log.read_text(errors="replace").replace("\r", "\n").splitlines() if log.is_file() else []
    said = [line.strip() for line in lines if line.strip()]
    ours = [line for line in said if line.startswith("error: ")]
    raised = [line for line in said if re.match(r"[\w.]*(Error|Exception)\b", line)]
    # An exception in the training takes augmentation's threads with it, whose own come after.
    last = [*ours[-1:], *raised[:1], *said[-1:], "ended without a word"][0]
    return f"{last} ({log})"

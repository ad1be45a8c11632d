"""Background processes: outcomes in order, errors as they were raised, and a dead one known by its case."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fuse4seg.errors import CaseTooLargeError, FaultyImageError, UnwritableFolderError, WorkerDiedError
from fuse4seg.inference.workers import Workers


def work(item: str) -> tuple[str, int]:
    """Does what its name says."""
    if item == "faulty":
        raise FaultyImageError(item, "it is constant")
    if item == "large":
        raise MemoryError
    if item == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    return item, os.getpid()


def outcomes(items: list[str], count: int) -> Iterator[tuple[str, object, object]]:
    with Workers("preparing", count, flag="-npp") as workers:
        yield from workers.map(work, items, name=lambda item: item)


class TestWorkers:
    @pytest.mark.parametrize("count", [0, 1, 2])
    def test_give_outcomes_in_order_with_errors_as_they_were_raised(self, count: int) -> None:
        first, faulty, large, last = outcomes(["first", "faulty", "large", "last"], count)
        assert [first.case, faulty.case, large.case, last.case] == ["first", "faulty", "large", "last"]
        assert first.result[0] == "first"
        assert last.result[0] == "last"
        assert (first.result[1] == os.getpid()) is (count == 0)
        assert type(faulty.failure) is FaultyImageError
        assert str(faulty.failure) == "case faulty: it is constant"
        assert isinstance(large.failure, CaseTooLargeError)

    def test_that_die_are_known_by_their_case_and_replaced(self) -> None:
        first, dead, last = outcomes(["first", "dies", "last"], 1)
        assert isinstance(dead.failure, WorkerDiedError)
        assert str(dead.failure) == ("a background process died while preparing case dies, most likely for want of memory. "
                                     "Use fewer processes (-npp 0).")
        assert first.result[0] == "first"
        assert last.result[0] == "last"

    def test_work_ahead_of_what_is_asked_for(self) -> None:
        taken: list[str] = []

        def items() -> Iterator[str]:
            for item in ("a", "b", "c", "d"):
                taken.append(item)
                yield item

        with Workers("preparing", 1, flag="-npp") as workers:
            found = workers.map(work, items(), name=str)
            assert next(found).case == "a"
            assert taken == ["a", "b"]
            assert next(found).case == "b"
            assert taken == ["a", "b", "c"]

    def test_in_this_process_take_one_item_at_a_time(self) -> None:
        taken: list[str] = []
        found = Workers("preparing", 0, flag="-npp").map(work, (taken.append(item) or item for item in "ab"), name=str)
        assert next(found).case == "a"
        assert taken == ["a"]

    def test_do_not_outlive_the_process_that_started_them(self) -> None:
        code = ("import time\nfrom concurrent.futures import wait\nfrom os import getpid\n"
                "from fuse4seg.inference.workers import Workers\n"
                "workers = Workers('preparing', 1, flag='-npp')\n"
                "pool = workers._pool(0)\nprint(pool.submit(getpid).result(), flush=True)\ntime.sleep(60)\n")
        run = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        worker = int(run.stdout.readline())
        run.kill()
        run.wait()
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and _is_running(worker):
            time.sleep(0.05)
        assert not _is_running(worker)


def _is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_errors_keep_their_message_on_the_way_to_another_process() -> None:
    error = UnwritableFolderError(Path("out"), "no space")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (UnwritableFolderError, str(error))

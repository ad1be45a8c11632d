"""Background processes: results in order; one that dies, early or late, ends the work."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import active_children, connection, context
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from fuse4seg.background import WatchedPool, in_background, results_of
from fuse4seg.errors import WorkerDiedError


def marked(place: Path, number: int) -> int:
    """Its square, after it left a trace."""
    time.sleep(0.01)  # many together outlast their submission, however busy the machine is
    (place / str(number)).touch()
    return number**2


def inverse(number: int) -> float:
    return 1 / number


def die(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def sleep(seconds: float) -> None:
    time.sleep(seconds)


@pytest.fixture
def started() -> Callable[[], list[BaseProcess]]:
    """Processes that the test has started; those of tests before it may still live."""
    before = set(active_children())
    return lambda: sorted(set(active_children()) - before, key=lambda process: process.pid or 0)


def kill_and_wait(process: BaseProcess, result: Callable[[], object]) -> None:
    process.kill()
    result()


def test_results_are_in_the_order_of_the_items(tmp_path: Path) -> None:
    with in_background(partial(marked, tmp_path), range(7), processes=2, doing="squaring") as results:
        assert [result() for result in results] == [0, 1, 4, 9, 16, 25, 36]


def test_without_items_there_is_nothing_to_wait_for() -> None:
    with in_background(inverse, [], processes=2, doing="dividing") as results:
        assert results == []


def test_what_a_task_raises_is_for_the_block() -> None:
    with in_background(inverse, [0, 4], processes=1, doing="dividing") as (first, second):
        with pytest.raises(ZeroDivisionError):
            first()
        assert second() == 0.25


def test_what_has_not_begun_ends_with_the_block(tmp_path: Path) -> None:
    with pytest.raises(KeyError), in_background(partial(marked, tmp_path), range(2000), processes=1, doing="squaring"):
        raise KeyError
    assert len(list(tmp_path.iterdir())) < 2000


def test_death_is_named() -> None:
    with pytest.raises(WorkerDiedError, match="died while dying, most likely for want of memory"), \
            in_background(die, [0, 1], processes=1, doing="dying") as results:
        results[0]()


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_death_of_the_process_started_last_is_noticed_while_the_others_work(
        processes: int, started: Callable[[], list[BaseProcess]]) -> None:
    began = time.monotonic()
    with pytest.raises(WorkerDiedError), \
            in_background(sleep, [60.0] * processes, processes=processes, doing="sleeping") as results:
        kill_and_wait(started()[-1], results[0])
    assert time.monotonic() - began < 50


def test_death_before_a_process_has_its_first_data_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def start_nothing(_: context.SpawnProcess) -> None:
        raise BrokenPipeError  # what writing to a process gives that was killed before it read

    monkeypatch.setattr(context.SpawnProcess, "start", start_nothing)
    with pytest.raises(WorkerDiedError), in_background(sleep, [60.0], processes=1, doing="sleeping") as (result,):
        result()


@pytest.mark.parametrize("processes", [1, 2])
def test_death_that_the_executor_misses_is_noticed(processes: int, started: Callable[[], list[BaseProcess]],
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a task that is submitted, or a process that is started, while the executor takes itself down."""
    submit = ProcessPoolExecutor.submit

    def submit_and_forget(pool: ProcessPoolExecutor, *arguments: object) -> Future:
        submit(pool, *arguments)
        return Future()

    monkeypatch.setattr(ProcessPoolExecutor, "submit", submit_and_forget)
    began = time.monotonic()
    with pytest.raises(WorkerDiedError), \
            in_background(sleep, [60.0] * processes, processes=processes, doing="sleeping") as results:
        kill_and_wait(started()[-1], results[0])
    assert time.monotonic() - began < 50
    assert all(connection.wait([child.sentinel], timeout=10) for child in started())


def test_an_answer_from_a_process_that_has_died_since_counts() -> None:
    pool = WatchedPool(1)
    future = pool.submit(os.getpid)
    os.kill(future.result(), signal.SIGKILL)
    assert pool.result(future) == future.result()
    with pytest.raises(BrokenProcessPool):
        pool.result(pool.submit(os.getpid))
    pool.abandon()
    pool.close()


@pytest.mark.parametrize("processes", [1, 2])
def test_results_are_the_same_in_this_process_and_in_others(processes: int) -> None:
    assert results_of(abs, iter([-3, 1, -2]), processes=processes, doing="making positive") == [3, 1, 2]

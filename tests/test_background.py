"""Background processes: results in order; one that dies, early or late, ends the work."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import Future
from functools import partial
from multiprocessing import active_children, context
from pathlib import Path

import pytest

from fuse4seg.background import in_background
from fuse4seg.errors import WorkerDiedError


def marked(place: Path, number: int) -> int:
    """Its square, after it left a trace."""
    (place / str(number)).touch()
    return number**2


def inverse(number: int) -> float:
    return 1 / number


def die(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def sleep(seconds: float) -> None:
    time.sleep(seconds)


def kill_newest_child_and_wait(future: Future) -> None:
    *_, newest = sorted(active_children(), key=lambda process: process.pid or 0)
    newest.kill()
    future.result()


def test_results_are_in_the_order_of_the_items(tmp_path: Path) -> None:
    with in_background(partial(marked, tmp_path), range(7), processes=2, doing="squaring") as futures:
        assert [future.result() for future in futures] == [0, 1, 4, 9, 16, 25, 36]


def test_without_items_there_is_nothing_to_wait_for() -> None:
    with in_background(inverse, [], processes=2, doing="dividing") as futures:
        assert futures == []


def test_what_a_task_raises_is_for_the_block() -> None:
    with in_background(inverse, [0, 4], processes=1, doing="dividing") as (first, second):
        with pytest.raises(ZeroDivisionError):
            first.result()
        assert second.result() == 0.25


def test_what_has_not_begun_ends_with_the_block(tmp_path: Path) -> None:
    with pytest.raises(KeyError), in_background(partial(marked, tmp_path), range(2000), processes=1, doing="squaring"):
        raise KeyError
    assert len(list(tmp_path.iterdir())) < 2000


def test_death_is_named() -> None:
    with pytest.raises(WorkerDiedError, match="died while dying, most likely for want of memory"), \
            in_background(die, [0, 1], processes=1, doing="dying") as futures:
        futures[0].result()


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_death_of_the_process_started_last_is_noticed_while_the_others_work(processes: int) -> None:
    began = time.monotonic()
    with pytest.raises(WorkerDiedError), \
            in_background(sleep, [60.0] * processes, processes=processes, doing="sleeping") as futures:
        kill_newest_child_and_wait(futures[0])
    assert time.monotonic() - began < 50


def test_death_before_a_process_has_its_first_data_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def start_nothing(_: context.SpawnProcess) -> None:
        raise BrokenPipeError  # what writing to a process gives that was killed before it read

    monkeypatch.setattr(context.SpawnProcess, "start", start_nothing)
    with pytest.raises(WorkerDiedError), in_background(sleep, [60.0], processes=1, doing="sleeping") as (future,):
        future.result()

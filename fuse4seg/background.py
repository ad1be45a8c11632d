"""Background processes whose death ends the work that waits for them, whenever it comes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing import active_children, connection, get_context, parent_process
from multiprocessing.process import BaseProcess
from threading import Thread
from typing import Any

from fuse4seg.errors import WorkerDiedError
from fuse4seg.progress import progress

#: Seconds between looks at processes that have not answered.
LOOK_EVERY = 1.0


class WatchedPool:
    """A ``ProcessPoolExecutor`` whose processes are looked after here, too.

    The executor itself can wait for ever: for a process that died as it started, for one that was started while it took the pool
    down, and for a task that was submitted just then.

    Args:
        processes: At most so many.
        initializer: Called as each process starts.
        initargs: What it is called with.
    """

    def __init__(self, processes: int, *, initializer: Callable[..., None] | None = None, initargs: tuple[Any, ...] = ()) -> None:
        self._pool = ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=initializer, initargs=initargs)
        self._children: set[BaseProcess] = set()
        self._abandoned = False

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future:
        """Submit a task; the result of one whose process dies as it starts is a BrokenProcessPool, as for one that dies later."""
        before = set(active_children())
        try:
            return self._pool.submit(function, *arguments)
        # A process that died before it read its first data, or the handles that the executor closes while it takes itself down,
        # make starting the next process fail in several ways.
        except (OSError, ValueError, BrokenProcessPool) as error:
            future: Future = Future()
            future.set_exception(BrokenProcessPool(str(error)))
            return future
        finally:
            self._children |= set(active_children()) - before

    def result(self, future: Future) -> Any:
        """What a task gave, or raised.

        Raises:
            BrokenProcessPool: A process of the pool died.
        """
        # One look more, for what came from it in its last moment.
        dead = False
        while not wait([future], timeout=LOOK_EVERY).done:
            if dead:
                raise BrokenProcessPool("a process ended without an answer")
            dead = self.is_dead()
        return future.result()

    def is_dead(self) -> bool:
        """Whether a process has ended, which they do by themselves only after the pool is closed."""
        # Not is_alive(), which is wrong for ever where the executor asked the system at the same moment.
        return bool(connection.wait([child.sentinel for child in self._children], timeout=0))

    def close(self) -> None:
        """Wait for what has begun, unless the pool was abandoned, and drop the rest."""
        self._pool.shutdown(wait=not self._abandoned, cancel_futures=True)

    def abandon(self) -> None:
        """End all processes at once, whatever they do."""
        for child in self._children:
            child.kill()
        for child in self._children:
            connection.wait([child.sentinel], timeout=LOOK_EVERY)
        self._abandoned = True


@contextmanager
def in_background(function: Callable[[Any], Any], items: Iterable[Any], *, processes: int,
                  doing: str) -> Iterator[list[Callable[[], Any]]]:
    """Apply a function to items in processes of their own, which end with the block; what has not begun by then is dropped.

    Args:
        function: Of a module, or a ``partial`` of one; itself, what it takes and what it gives can be sent to another process.
        items: What to apply it to, taken all at once.
        processes: At most so many at a time.
        doing: What they do, for the message if one dies: "checking cases", ...

    Yields:
        In the order of the items, functions that wait for an item's result and give it, or raise what the function raised.

    Raises:
        WorkerDiedError: A process ended without an answer, if the block has asked for one.
    """
    items = list(items)
    pool = WatchedPool(max(1, min(processes, len(items))))
    try:
        futures = [pool.submit(function, item) for item in items]
        yield [partial(pool.result, future) for future in futures]
    except BrokenProcessPool as error:
        pool.abandon()
        raise WorkerDiedError(doing) from error
    finally:
        pool.close()


def results_of(function: Callable[[Any], Any], items: Iterable[Any], *, processes: int, doing: str) -> list[Any]:
    """What a function gives for each item, in their order, under a bar that counts cases.

    Args:
        function: As for :func:`in_background`.
        items: As there.
        processes: At most so many at a time; with 1, in this process.
        doing: What the bar says, and the message if a process dies.

    Raises:
        WorkerDiedError: A process ended without an answer.
    """
    items = list(items)
    watched = partial(progress, doing=doing, unit="case", total=len(items))
    if processes == 1:
        return list(watched(map(function, items)))
    with in_background(function, items, processes=processes, doing=doing) as found:
        return [result() for result in watched(found)]


def start_worker() -> None:
    """Begin a process: Ctrl-C is for the one that started it, which it does not outlive, however that ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    connection.wait([parent_process().sentinel])
    os._exit(1)

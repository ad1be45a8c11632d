"""Background processes whose death ends the work that waits for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any

from fuse4seg.errors import WorkerDiedError


@contextmanager
def in_background(function: Callable[[Any], Any], items: Iterable[Any], *, processes: int, doing: str,
                  initializer: Callable[..., None] | None = None, initargs: tuple[Any, ...] = ()) -> Iterator[list[Future]]:
    """Apply a function to items in processes of their own, which end with the block; what has not begun by then is dropped.

    Args:
        function: Of a module, or a ``partial`` of one; itself, what it takes and what it gives can be sent to another process.
        items: What to apply it to, taken all at once.
        processes: At most so many at a time.
        doing: What they do, for the message if one dies: "checking cases", ...
        initializer: Called as each process starts.
        initargs: What it is called with.

    Yields:
        The futures of the results, in the order of the items.

    Raises:
        WorkerDiedError: A process ended without an answer, if the block has asked for one.
    """
    items = list(items)
    pool = ProcessPoolExecutor(max(1, min(processes, len(items))), mp_context=get_context("spawn"), initializer=initializer,
                               initargs=initargs)
    try:
        yield _submit_all(pool, function, items)
    except BrokenProcessPool as error:
        raise WorkerDiedError(doing) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _submit_all(pool: ProcessPoolExecutor, function: Callable[[Any], Any], items: list[Any]) -> list[Future]:
    futures = [submit(pool, function, item) for item in items]
    # The pool looks after the processes that it knows of when a task comes in, and starts the one for that task only then; so
    # without a task after the last, the death of the process that was started last is never noticed.
    submit(pool, _nothing)
    return futures


def submit(pool: ProcessPoolExecutor, function: Callable[..., Any], *arguments: Any) -> Future:
    """Submit a task; the result of one whose process dies as it starts is a BrokenProcessPool, as for one that dies later."""
    try:
        return pool.submit(function, *arguments)
    except (BrokenPipeError, BrokenProcessPool) as error:
        future: Future = Future()
        future.set_exception(BrokenProcessPool(str(error)))
        return future


def _nothing() -> None:
    pass

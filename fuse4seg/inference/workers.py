"""Background processes that work on one case each, in turn, so that one that dies is known by its case; and how many of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

from fuse4seg.background import WatchedPool, start_worker
from fuse4seg.case_faults import fault_of
from fuse4seg.datasets.nifti import itk_header
from fuse4seg.errors import UnwritableFolderError, WorkerDiedError
from fuse4seg.farm.farm import Outcome
from fuse4seg.files import has_plain_name
from fuse4seg.machine import free_memory, usable_cores

#: At most so many processes beside a GPU, which waits for them; a CPU does the network's work itself.
MOST, MOST_ON_CPU = 3, 1
#: Cores below which a CPU has none to spare for them.
CORES_ON_CPU = 4
#: Bytes that a process takes for each voxel of all channels at the worst moment, and for itself.
BYTES_PER_VOXEL, BYTES_PER_PROCESS = 24, 500_000_000


class Workers(AbstractContextManager):
    """Processes for one step of the work; with none of them, it is done in this one.

    Results are large: none is kept here once it was given.

    Args:
        doing: What they do, for messages: "preparing", ...
        count: How many processes.
        flag: That sets their number, for messages.
    """

    def __init__(self, doing: str, count: int, *, flag: str) -> None:
        self.doing, self.flag = doing, flag
        self._pools: list[WatchedPool | None] = [None] * count

    def __exit__(self, *_: object) -> None:
        for pool in filter(None, self._pools):
            pool.close()

    def map(self, function: Callable[[Any], Any], items: Iterable[Any], *, name: Callable[[Any], str]) -> Iterator[Outcome]:
        """Outcomes in the order of the items, of which as many are worked on at a time as there are processes.

        Args:
            function: Of a module, or a ``partial`` of one; itself and what it takes and gives can be sent to another process.
            items: Are taken as they are needed; the next one is taken while earlier ones are worked on.
            name: Gives the name of an item's case.
        """
        if not self._pools:
            for item in items:
                outcome = [_outcome(name(item), partial(function, item))]
                del item
                yield outcome.pop()
            return
        pending: deque[tuple[str, int, Future]] = deque()
        for number, item in enumerate(items):
            done = [self._finish(*pending.popleft())] if len(pending) == len(self._pools) else []
            place = number % len(self._pools)
            pending.append((name(item), place, self._pool(place).submit(function, item)))
            del item
            if done:
                yield done.pop()
        while pending:
            yield self._finish(*pending.popleft())

    def _pool(self, place: int) -> WatchedPool:
        pool = self._pools[place]
        if pool is None:
            pool = self._pools[place] = WatchedPool(1, initializer=start_worker)
        return pool

    def _finish(self, case: str, place: int, future: Future) -> Outcome:
        pool = self._pool(place)
        try:
            return _outcome(case, partial(pool.result, future))
        except BrokenProcessPool:
            pool.abandon()
            pool.close()
            self._pools[place] = None
            return Outcome(case, None, WorkerDiedError(f"{self.doing} case {case}", mend=f"Use fewer processes ({self.flag} 0)."))


def fitting_processes(images: Sequence[Path], *, cases: int, on_gpu: bool, cores: int | None = None,
                      free: int | None = None) -> int:
    """What cores, memory and cases allow: processes for preparing, and as many for exporting.

    Args:
        images: Of one of the cases.
        cases: How many there are to predict; a single one has nothing to overlap with.
        on_gpu: Where the network computes.
        cores: To use; None to look.
        free: Bytes of memory; None to look. Where that cannot be known there are no processes beside this one.
    """
    cores = usable_cores() if cores is None else cores
    free = free_memory() or 0 if free is None else free
    if cases < 2 or cores < (2 if on_gpu else CORES_ON_CPU):
        return 0
    # The network's own process holds a case, too.
    of_memory = free // (BYTES_PER_PROCESS + BYTES_PER_VOXEL * _voxels(images)) - 1
    return max(0, min(MOST if on_gpu else MOST_ON_CPU, cores // 2, of_memory // 2, cases - 1))


def _outcome(case: str, ask: Callable[[], Any]) -> Outcome:
    try:
        return Outcome(case, ask(), None)
    except UnwritableFolderError as error:
        return Outcome(case, None, error)
    except Exception as error:  # noqa: BLE001 (what is no fault of the case is raised again)
        return Outcome(case, None, fault_of(error, case))


def _voxels(images: Sequence[Path]) -> int:
    """Of all channels, by the first one's header; 0 where none can be read, as of pictures, which are small."""
    if not has_plain_name(images[0]):
        return 0
    try:
        return prod(itk_header(images[0]).GetSize()) * len(images)
    except RuntimeError:
        return 0

"""A farm of processes on this machine, one for each device that is named."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from fuse4seg.background import LOOK_EVERY, WatchedPool, start_worker
from fuse4seg.farm.farm import Answer, Farm, Job, LostWorkerError, run_task
from fuse4seg.machine import cores_of_each, see_only

#: What helps where -np says how many processes there are.
FEWER = "Use fewer processes (-np 1)."


class ProcessFarm(Farm):
    """A process for each device.

    Args:
        devices: "cpu", "mps", "cuda", "cuda:1", ...; one named twice gets two processes.
        mend: What would help a case whose process died twice.
    """

    def __init__(self, devices: Sequence[str], *, mend: str = "Name fewer devices (--devices).") -> None:
        self.devices, self.mend, self.device = list(devices), mend, devices[0].partition(":")[0]
        self._pools: list[WatchedPool | None] = [None] * len(devices)
        self._places: dict[Future, int] = {}

    def __exit__(self, *_: object) -> None:
        for pool in filter(None, self._pools):
            pool.close()

    def room(self) -> int:
        """One case for each process."""
        return len(self.devices)

    def submit(self, job: Job, packed: bytes, item: Any) -> Future:
        """Give an item to a process that has none."""
        place = min(set(range(len(self.devices))) - set(self._places.values()))
        if self._pools[place] is None:
            initargs = self.devices[place], cores_of_each(self.devices)
            self._pools[place] = WatchedPool(1, initializer=_start, initargs=initargs)
        future = self._pools[place].submit(run_task, packed, item)
        self._places[future] = place
        return future

    def ended(self, tasks: Sequence[Future], job: Job) -> Sequence[Future]:
        """Those that gave something, and those whose process is gone."""
        while True:
            # Looked for first: what came from a process in its last moment counts.
            gone = [task for task in tasks if self._pools[self._places[task]].is_dead()]
            done = wait(tasks, timeout=0 if gone else LOOK_EVERY, return_when=FIRST_COMPLETED).done
            if done or gone:
                return list(done) or gone

    def result(self, task: Future, job: Job) -> Any:
        """What an ended task gave, or raised."""
        place = self._places.pop(task)
        try:
            if not task.done():
                raise BrokenProcessPool("a process ended without an answer")
            return task.result()
        except BrokenProcessPool as error:
            self._pools[place].abandon()
            self._pools[place].close()
            self._pools[place] = None
            raise LostWorkerError from error

    def agreed(self, function: Callable[..., Answer], *arguments: Any, flag: str) -> Answer:
        """What a function gives here, where all processes are."""
        return function(*arguments)


def _start(device: str, cores: int) -> None:
    """Begin a process, before PyTorch is imported."""
    start_worker()
    see_only(device)
    os.environ.setdefault("OMP_NUM_THREADS", str(cores))

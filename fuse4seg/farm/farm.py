"""Cases taken from one queue by workers, each of which holds what it works with; a worker that dies costs no other case."""

from __future__ import annotations

import os
import pickle
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

from fuse4seg.case_faults import fault_of
from fuse4seg.errors import Fuse4SegError, WorkerDiedError
from fuse4seg.paths import prepare_environment

Answer = TypeVar("Answer")

#: What a worker ends with whose GPU is lost to it.
LOST_DEVICE = 70


class Outcome(NamedTuple):
    """What became of a case: a result, or the failure that kept it from having one."""

    case: str
    result: Any
    failure: Fuse4SegError | None


@dataclass(frozen=True)
class Job:
    """What is done with every case; functions are of a module, or ``partial`` of one, and can be sent to another process.

    Attributes:
        make: Gives what a worker holds from its first case on, such as a loaded model.
        work: Gives, of what the worker holds and an item, the result.
        doing: For messages, and the dashboard of a cluster: "predicting", ...
        on_gpu: Whether a worker needs a GPU.
    """

    make: Callable[[], Any]
    work: Callable[[Any, Any], Any]
    doing: str
    on_gpu: bool = False


class LostWorkerError(Exception):
    """A worker died over an item."""


class Farm(AbstractContextManager):
    """Workers that take items from one queue.

    Attributes:
        mend: What would help such a case.
        device: Kind of device that they compute on: "cpu", "cuda", "mps"; "" where that does not matter.
    """

    mend = ""
    device = ""

    def outcomes(self, job: Job, items: Iterable[Any], *, name: Callable[[Any], str]) -> Iterator[Outcome]:
        """What became of every item, as they end; an item whose worker died is tried once more, last of all and alone.

        It may have died of another item that it had, too; alone, it is known which one kills workers.

        Args:
            job: What to do.
            items: Small ones: those that wait are held here.
            name: Gives the name of an item's case.

        Raises:
            Exception: What is no fault of a case; see :func:`~fuse4seg.case_faults.fault_of`.
        """
        waiting, packed = deque(items), pickle.dumps(job)
        suspects: list[Any] = []
        yield from self._tried(job, packed, waiting, name, self.room, suspects.append)
        for item in suspects:
            killers: list[Any] = []
            yield from self._tried(job, packed, deque([item]), name, lambda: 1, killers.append)
            for killer in killers:
                died = WorkerDiedError(f"{job.doing} case {name(killer)}", mend=self.mend)
                yield Outcome(name(killer), None, died)

    def _tried(self, job: Job, packed: bytes, waiting: deque[Any], name: Callable[[Any], str], room: Callable[[], int],
               lost: Callable[[Any], None]) -> Iterator[Outcome]:
        """The outcomes of items, but for those whose worker died, which ``lost`` gets."""
        running: dict[Hashable, Any] = {}
        while waiting or running:
            while waiting and len(running) < max(1, room()):
                item = waiting.popleft()
                running[self.submit(job, packed, item)] = item
            for task in self.ended(list(running), job):
                item = running.pop(task)
                try:
                    yield self._outcome(name(item), task, job)
                except LostWorkerError:
                    lost(item)

    def _outcome(self, case: str, task: Hashable, job: Job) -> Outcome:
        try:
            return Outcome(case, self.result(task, job), None)
        except Fuse4SegError as error:
            return Outcome(case, None, error)
        except LostWorkerError:
            raise
        except Exception as error:  # noqa: BLE001 (what is no fault of the case is raised again)
            return Outcome(case, None, fault_of(error, case))

    @abstractmethod
    def room(self) -> int:
        """How many cases can be worked on at a time."""

    @abstractmethod
    def submit(self, job: Job, packed: bytes, item: Any) -> Hashable:
        """Have :func:`run_task` work on an item; ``packed`` is the pickled job."""

    @abstractmethod
    def ended(self, tasks: Sequence[Hashable], job: Job) -> Sequence[Hashable]:
        """Those of the tasks that have ended; waits until there is one."""

    @abstractmethod
    def result(self, task: Hashable, job: Job) -> Any:
        """What an ended task gave, or raised.

        Raises:
            LostWorkerError: Its worker died.
        """

    @abstractmethod
    def agreed(self, function: Callable[..., Answer], *arguments: Any, flag: str) -> Answer:
        """What a function gives on every worker.

        Raises:
            OptionError: It is not the same everywhere; ``flag`` would decide.
        """


@lru_cache(maxsize=1)
def held(packed: bytes) -> tuple[Any, Job]:
    """What this process holds for a pickled job, made once, and the job."""
    prepare_environment()
    job: Job = pickle.loads(packed)
    return job.make(), job


def run_task(packed: bytes, item: Any) -> Any:
    """Work on an item, in a worker; one whose GPU is lost ends, so that another takes the item and a new one its place."""
    holding, job = held(packed)
    try:
        return job.work(holding, item)
    except Exception as error:
        if any(kind.__name__ == "AcceleratorError" for kind in type(error).__mro__):
            os._exit(LOST_DEVICE)
        raise

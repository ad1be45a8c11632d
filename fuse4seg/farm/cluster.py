"""A farm on a cluster: the workers of a Dask scheduler, checked before work starts."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fuse4seg import __version__
from fuse4seg.errors import Fuse4SegError, OptionError, UnwritableFolderError, WorkerDiedError, first_line
from fuse4seg.farm.farm import Answer, Farm, Job, LostWorkerError, run_task

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distributed import Client, Future

FLAG = "--scheduler"
#: Resource that GPU workers offer: dask worker --resources gpu=1.
GPU = "gpu"
#: Seconds in which a scheduler answers, and has a worker.
ANSWER = 10.0
#: Seconds after which a run ends that no worker is left for.
NO_WORKERS = 60.0
LOOK_EVERY = 1.0


class DaskFarm(Farm):
    """The workers of a Dask scheduler; Dask itself gives a dead worker's case to another one, up to its allowed-failures.

    A worker that dies takes down with it the standing of all cases that it had, so each is tried once more, alone.

    Args:
        address: Such as tcp://10.0.0.1:8786.
        reads: Files and folders that every worker must see.
        writes: Folder that every worker must be able to write to, or to make.
        device: "cuda", "cpu", "mps"; None for a GPU where workers have one. "" for work that needs none.

    Raises:
        OptionError: Dask is not installed, there is no such scheduler, or it has no workers; or one of them has another version
            of this tool, several threads, not the device, or does not see a path.
        UnwritableFolderError: ``writes`` cannot be written to from here.
    """

    mend = "So it did on several workers, one after another. Predict it alone, on a machine with more memory."

    def __init__(self, address: str, *, reads: Iterable[Path] = (), writes: Path | None = None, device: str | None = "") -> None:
        self._client = _connect(address)
        self._address, self._empty_since = address, None
        try:
            workers = self._client.scheduler_info(n_workers=-1)["workers"]
            for name, worker in workers.items():
                if worker["nthreads"] > 1:
                    raise OptionError(FLAG, f"worker {name} has {worker['nthreads']} threads, and a case needs a process for "
                                            f"itself. Start workers with --nthreads 1, and several with --nworkers.")
            self._offer_gpu = any(GPU in worker["resources"] for worker in workers.values())
            kinds = self._look(writes, [path for path in reads if path.exists()])
            self._choose(device, kinds)
        except BaseException:
            self._client.close()
            raise

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def room(self) -> int:
        """One case for each worker that there is now."""
        return len(self._workers())

    def submit(self, job: Job, packed: bytes, item: Any) -> Future:
        """Give an item to the scheduler; the dashboard shows it by what is done."""
        return self._client.submit(run_task, packed, item, key=f"{job.doing}-{uuid.uuid4().hex}", pure=False,
                                   resources={GPU: 1} if job.on_gpu and self._offer_gpu else None)

    def ended(self, tasks: Sequence[Future], job: Job) -> Sequence[Future]:
        """Those that Dask has an answer for.

        Raises:
            WorkerDiedError: No worker is left, for a minute.
        """
        from distributed import CancelledError, wait

        while True:
            try:
                with self._client.as_current():
                    return list(wait(tasks, timeout=LOOK_EVERY, return_when="FIRST_COMPLETED").done)
            except CancelledError as error:
                raise self._gone(job, "the scheduler is gone") from error
            except TimeoutError:
                self._require_workers(job)

    def result(self, task: Future, job: Job) -> Any:
        """What an ended task gave, or raised."""
        from distributed import CancelledError, KilledWorker

        try:
            return task.result()
        except KilledWorker as error:
            raise LostWorkerError from error
        except CancelledError as error:
            raise self._gone(job, "the scheduler is gone") from error

    def agreed(self, function: Callable[..., Answer], *arguments: Any, flag: str) -> Answer:
        """What a function gives on every worker that work is given to."""
        answers = self._ask(function, *arguments)
        others = {answer: name for name, answer in answers.items()}
        if len(others) > 1:
            told = ", ".join(f"{str(answer).removeprefix('torch.')} on {name}" for answer, name in others.items())
            raise OptionError(flag, f"the workers do not agree: {told}. Say it with {flag}.")
        return next(iter(others))

    def _workers(self) -> list[str]:
        """Addresses of those that work is given to."""
        workers: Mapping[str, Any] = self._client.scheduler_info(n_workers=-1)["workers"]
        only_gpu = self._offer_gpu and self.device == "cuda"
        return [name for name, worker in workers.items() if not only_gpu or GPU in worker["resources"]]

    def _ask(self, function: Callable[..., Answer], *arguments: Any) -> dict[str, Answer]:
        from distributed.comm import CommClosedError

        told = self._client.run(function, *arguments, workers=self._workers(), on_error="return")
        # One that died meanwhile is no worker any more.
        answers = {name: answer for name, answer in told.items() if not isinstance(answer, CommClosedError)}
        if not answers:
            raise OptionError(FLAG, f"the workers at {self._address} die when asked what they see. Look at their logs.")
        for name, answer in answers.items():
            if isinstance(answer, Fuse4SegError):
                raise answer
            if isinstance(answer, Exception):
                raise OptionError(FLAG, f"worker {name} cannot do the work ({first_line(answer, kind=True)}). Install fuse4seg "
                                        f"{__version__} for it, as it is here.")
        return answers

    def _look(self, writes: Path | None, reads: Sequence[Path]) -> dict[str, list[str]]:
        """Kinds of devices of every worker, which has our version and sees what it must."""
        with _probe(writes) as probe:
            seen = self._ask(look, [str(path) for path in reads], probe and str(probe))
        for name, (version, _, hidden) in seen.items():
            if version != __version__:
                raise OptionError(FLAG, f"worker {name} has fuse4seg {version}, and this is {__version__}. Install the same.")
            if hidden is not None:
                raise OptionError(FLAG, f"worker {name} cannot use {hidden}, or finds another one there. Put it on storage that "
                                        f"all machines share, under the same path.")
        return {name: kinds for name, (_, kinds, _) in seen.items()}

    def _choose(self, wanted: str | None, kinds: Mapping[str, Sequence[str]]) -> None:
        """Settle on a kind of device that all workers have, or all that offer a GPU."""
        self.device = wanted if wanted is not None else "cuda" if any("cuda" in found for found in kinds.values()) else "cpu"
        for name in self._workers() if self.device else ():
            if self.device not in kinds.get(name, [self.device]):  # of one that came since, nothing is known
                raise OptionError("-device", f"worker {name} has no {self.device}. Give -device cpu, or start those that have it "
                                             f"with --resources {GPU}=1: the others are left out then.")

    def _require_workers(self, job: Job) -> None:
        if self._workers():
            self._empty_since = None
            return
        now = time.monotonic()
        self._empty_since = self._empty_since or now
        if now - self._empty_since > NO_WORKERS:
            raise self._gone(job, "no worker is left")

    def _gone(self, job: Job, what: str) -> WorkerDiedError:
        return WorkerDiedError(job.doing, mend=f"Of {self._address}, {what}. Start it again, and run the same command again.")


def look(reads: Sequence[str], probe: str | None) -> tuple[str, list[str], str | None]:
    """What a worker is and sees: its version, its kinds of devices, and the first path that it cannot use."""
    import torch

    kinds = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    hidden = [path for path in reads if not os.access(path, os.R_OK)]
    if probe is not None and not (Path(probe).exists() and os.access(Path(probe).parent, os.W_OK)):
        hidden.append(str(Path(probe).parent))
    return __version__, [kind for kind, here in kinds.items() if here], next(iter(hidden), None)


def _connect(address: str) -> Client:
    try:
        from distributed import Client
        from distributed.comm.addressing import get_address_host_port
    except ImportError as error:
        raise OptionError(FLAG, "needs Dask. Install it with pip install 'fuse4seg[cluster]'.") from error
    try:
        if not address.startswith("inproc:"):  # which has neither
            get_address_host_port(address)  # first: a client that this refuses would wait, and complain, when it is collected
        client = Client(address, timeout=ANSWER, set_as_default=False)
    except (OSError, ValueError) as error:
        raise OptionError(FLAG, f"no Dask scheduler answers at {address} ({first_line(error)}). Start one with dask scheduler, "
                                f"or check the address.") from error
    try:
        client.wait_for_workers(1, timeout=ANSWER)
    except TimeoutError as error:
        client.close()
        raise OptionError(FLAG, f"the scheduler at {address} has no workers. Start some with dask worker {address} "
                                f"--nthreads 1.") from error
    return client


@contextmanager
def _probe(folder: Path | None) -> Iterator[Path | None]:
    """A file in the folder, or in the nearest one above that is there, by which a worker knows that it is the same one."""
    if folder is None:
        yield None
        return
    place = next(above for above in (folder, *folder.parents) if above.is_dir())
    path = place / f".{uuid.uuid4().hex}.probe"
    try:
        path.touch()
    except OSError as error:
        raise UnwritableFolderError(place, error.strerror or str(error)) from error
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)

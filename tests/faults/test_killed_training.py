"""A training that is killed or told to stop at a random moment, in either stage, ends bit for bit as if it had not been."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

FLAGS = ["990", "2d", "0", "--pretrain_epochs", "2", "--epochs", "2", "--iterations", "3", "-device", "cpu"]
#: Between them, every iteration is saved in one and every second epoch in the other.
PACES = (["--save_every", "1", "0.0001min"], ["--save_every", "2"])
FOLD = Path("Dataset990_Phantom", "Fuse4SegTrainer__Fuse4SegPlans__2d", "fold_0")
LATEST = ("checkpoint_latest.pth", "checkpoint_latest_previous.pth", "pretraining_latest.pth", "pretraining_latest_previous.pth")


def differences(found: Any, wanted: Any, where: str = "") -> list[str]:
    """Where plain data differ, bit for bit; times of day, and whether it was a resume, may."""
    if where.endswith("_timestamps']") or where == "['init_args']":
        return []
    if isinstance(wanted, dict):
        names = [*wanted, *(found.keys() - wanted.keys())]
        return [line for name in names for line in differences(found.get(name), wanted.get(name), f"{where}[{name!r}]")]
    if isinstance(wanted, (list, tuple)):
        if len(found) != len(wanted):
            return [f"{where} has {len(found)} entries, not {len(wanted)}"]
        return [line for index, pair in enumerate(zip(found, wanted, strict=True))
                for line in differences(*pair, f"{where}[{index}]")]
    if isinstance(wanted, torch.Tensor):
        same = found.dtype == wanted.dtype and torch.equal(found, wanted)
    else:
        same = found == wanted or (found != found and wanted != wanted)
    return [] if same else [where]


class Child:
    """Work in a process of its own, forked so that it need not import everything again; its output goes to a file.

    Its background processes share its process group and are ended with the object.
    """

    def __init__(self, work: Callable[[], int], log: Path) -> None:
        self.pid = os.fork()
        if self.pid == 0:
            self._work(work, log)

    def _work(self, work: Callable[[], int], log: Path) -> None:
        status = 99
        try:
            os.setsid()
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            for descriptor in (1, 2):
                os.dup2(output, descriptor)
            sys.stdout = sys.stderr = os.fdopen(output, "w", buffering=1)
            status = work()
        except BaseException:  # noqa: BLE001 (the process ends here, whatever it was)
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)

    def ended(self) -> int | None:
        """Exit status, negative for a signal; None while it runs."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if pid else None

    def wait(self, seconds: float) -> int | None:
        """Exit status; None if it still runs after so many seconds."""
        until = time.monotonic() + seconds
        while (status := self.ended()) is None and time.monotonic() < until:
            time.sleep(0.005)
        return status

    def end_group(self) -> None:
        """End what it left running."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return


class Ended(NamedTuple):
    """How a training ended.

    Attributes:
        status: Exit status, None if it was killed.
        seconds: It took.
        stage: In which it was, 1 or 2.
        log: What it said.
    """

    status: int | None
    seconds: float
    stage: int
    log: str


class Trainings:
    """Runs of the same seeded training, each in a results root of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seconds = self.run("undisturbed", PACES[0]).seconds
        self.wanted = {name: self.load("undisturbed", name) for name in ("checkpoint_final.pth", "pretrained.pth")}

    def fold(self, name: str) -> Path:
        return self.folder / name / FOLD

    def load(self, name: str, file: str) -> dict[str, Any]:
        return torch.load(self.fold(name) / file, weights_only=True)

    def run(self, name: str, words: list[str], *, number: int | None = None, after: float = 0) -> Ended:
        """Train, without the validation at the end; send a signal after so many seconds."""
        log = self.folder / f"{name}.txt"

        def work() -> int:
            os.environ["nnUNet_results"] = str(self.folder / name)
            from fuse4seg.cli.train import main
            from fuse4seg.training.trainer import Fuse4SegTrainer

            Fuse4SegTrainer.perform_actual_validation = lambda _trainer: None
            return main([*FLAGS, *words])

        begin = time.monotonic()
        child = Child(work, log)
        try:
            status = child.wait(after) if number is not None else None
            if number is not None and status is None:
                os.kill(child.pid, number)
            if status is None:
                status = child.wait(300)
            assert status is not None, f"{name} hangs: {log.read_text()}"
        finally:
            child.end_group()
        return Ended(status, time.monotonic() - begin, 2 if (self.fold(name) / "pretrained.pth").exists() else 1,
                     log.read_text())

    def equal(self, name: str) -> list[str]:
        """Where the end of a training differs from that of the undisturbed one."""
        return [f"{file}{line}" for file, wanted in self.wanted.items() for line in differences(self.load(name, file), wanted)]


@pytest.fixture(scope="module")
def trainings(planned_phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainings]:
    """An undisturbed training to compare with."""
    import fuse4seg.training.run  # noqa: F401 (what every process would import)

    assert torch.get_num_threads() == 1 or os.environ.get("OMP_NUM_THREADS") == "1", "threads do not survive a fork"
    return Trainings(tmp_path_factory.mktemp("killed"))


class Tally:
    """What became of many trainings."""

    def __init__(self) -> None:
        self.equal, self.faults, self.stages = 0, [], []

    def __str__(self) -> str:
        return f"{self.equal} of {self.equal + len(self.faults)} (stage 1: {self.stages.count(1)}, 2: {self.stages.count(2)})"


def kill_and_resume(trainings: Trainings, moments: int, *, seed: int) -> Tally:
    """Kill at so many random moments, the background processes not included, and resume each time at once."""
    draws, tally, number = random.Random(seed), Tally(), 0
    while len(tally.stages) < moments:
        number += 1
        name, pace = f"killed_{seed}_{number}", PACES[number % len(PACES)]
        ended = trainings.run(name, pace, number=signal.SIGKILL, after=draws.uniform(0.05, trainings.seconds))
        if ended.status == 0:
            continue  # it was faster than the undisturbed one
        tally.stages.append(ended.stage)
        resumed = trainings.run(name, [*pace, "--c"])
        faults = [resumed.log] if resumed.status != 0 else trainings.equal(name)
        tally.faults += [f"{name}: {faults[0]}"] if faults else []
        tally.equal += not faults
    return tally


def stop_and_resume(trainings: Trainings, moments: int, *, seed: int, number: signal.Signals) -> Tally:
    """Ask to stop at so many random moments; what is saved must hold all iterations that were done."""
    draws, tally, run = random.Random(seed), Tally(), 0
    while len(tally.stages) < moments:
        run += 1
        name = f"{number.name}_{seed}_{run}"
        # Before the first half second the process has not taken the signal over: the shell's status is the same.
        ended = trainings.run(name, ["--save_every", "2"], number=number, after=draws.uniform(0.05, trainings.seconds))
        if ended.status == 0:
            continue
        tally.stages.append(ended.stage)
        saved = any((trainings.fold(name) / file).is_file() for file in (*LATEST, "checkpoint_final.pth"))
        faults = [] if ended.status == 128 + number and saved and "everything is saved in" in ended.log else [
            f"status {ended.status}, saved: {saved}: {ended.log}"]
        if not faults:
            resumed = trainings.run(name, ["--save_every", "2", "--c"])
            faults = [resumed.log] if resumed.status != 0 else trainings.equal(name)
        tally.faults += [f"{name}: {faults[0]}"] if faults else []
        tally.equal += not faults
    return tally


class TestKill:
    def test_at_a_random_moment_loses_nothing(self, trainings: Trainings) -> None:
        tally = kill_and_resume(trainings, 3, seed=1)
        assert tally.faults == []

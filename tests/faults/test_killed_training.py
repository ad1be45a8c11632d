"""A training that is killed or told to stop at a random moment, in either stage, ends bit for bit as if it had not been."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

CHANGES = ("training.iterations=3",)
FLAGS = ["990", "2d", "0", "-device", "cpu", "--set", *CHANGES]
#: Between them, every iteration is saved in one and every second epoch in the other.
PACES = (["--save_every", "1", "0.0001min"], ["--save_every", "2"])
FOLD = Path("Dataset990_Phantom", "Fuse4SegTrainer-training.iterations=3__Fuse4SegPlans__2d", "fold_0")
#: What a training that was stopped goes on from.
SAVED = ("checkpoint_final.pth", "checkpoint_latest.pth", "pretrained.pth", "pretraining_latest.pth")


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

    def __init__(self, folder: Path, start: Callable[..., Any], differences: Callable[[Any, Any], list[str]]) -> None:
        self.folder, self._start, self._differences = folder, start, differences
        self.seconds = self.run("undisturbed", PACES[0]).seconds
        self.wanted = {name: self.load("undisturbed", name) for name in ("checkpoint_final.pth", "pretrained.pth")}

    def fold(self, name: str) -> Path:
        return self.folder / name / FOLD

    def load(self, name: str, file: str) -> dict[str, Any]:
        return torch.load(self.fold(name) / file, weights_only=True)

    def run(self, name: str, words: list[str], *, number: int | None = None, after: float = 0,
            whole_group: bool = False) -> Ended:
        """Train, without the validation at the end; send a signal after so many seconds, to background processes, too, or not."""
        log = self.folder / f"{name}.txt"

        def work() -> int:
            os.environ["nnUNet_results"] = str(self.folder / name)
            from fuse4seg.cli.train import main
            from fuse4seg.training.trainer import Fuse4SegTrainer

            Fuse4SegTrainer.perform_actual_validation = lambda *_: None
            return main([*FLAGS, *words])

        begin = time.monotonic()
        child = self._start(work, log)
        try:
            status = child.wait(after) if number is not None else None
            if number is not None and status is None:
                (os.killpg if whole_group else os.kill)(child.pid, number)
            if status is None:
                status = child.wait(300)
            assert status is not None, f"{name} hangs: {log.read_text()}"
        finally:
            child.end_group()
        return Ended(status, time.monotonic() - begin, 2 if (self.fold(name) / "pretrained.pth").exists() else 1,
                     log.read_text())

    def equal(self, name: str) -> list[str]:
        """Where the end of a training differs from that of the undisturbed one."""
        return [f"{file}{line}" for file, wanted in self.wanted.items()
                for line in self._differences(self.load(name, file), wanted)]


@pytest.fixture(scope="module")
def trainings(planned_phantom: Path, tmp_path_factory: pytest.TempPathFactory,
              start_process: Callable[..., Any], differences: Callable[[Any, Any], list[str]]) -> Trainings:
    """An undisturbed training to compare with."""
    return Trainings(tmp_path_factory.mktemp("killed"), start_process, differences)


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
    """Ask to stop at so many random moments, every second time the background processes, too, as schedulers and Ctrl-C do."""
    draws, tally, run = random.Random(seed), Tally(), 0
    while len(tally.stages) < moments:
        run += 1
        name = f"{number.name}_{seed}_{run}"
        ended = trainings.run(name, PACES[1], number=number, after=draws.uniform(0.05, trainings.seconds),
                              whole_group=run % 2 == 0)
        if ended.status == 0:
            continue
        tally.stages.append(ended.stage)
        faults = stopped_badly(trainings, name, ended, number)
        if not faults:
            resumed = trainings.run(name, [*PACES[1], "--c"])
            faults = [resumed.log] if resumed.status != 0 else trainings.equal(name)
        tally.faults += [f"{name}: {faults[0]}"] if faults else []
        tally.equal += not faults
    return tally


def stopped_badly(trainings: Trainings, name: str, ended: Ended, number: signal.Signals) -> list[str]:
    """What is wrong with how a training was stopped: its status, its words, or what it left."""
    saved = [path for path in sorted(trainings.fold(name).glob("*.pth")) if path.name in SAVED]
    if saved and "everything is saved in" in ended.log and "Traceback" not in ended.log:
        return [] if ended.status == 128 + number else [f"status {ended.status}"]
    # It was still starting: nothing was trained, and the shell or the command gave the same status.
    begun = saved or "pre-training epoch" in ended.log
    return [f"status {ended.status}, {saved}: {ended.log}"] if begun or ended.status not in (128 + number, -number) else []


class TestKill:
    def test_at_a_random_moment_loses_nothing(self, trainings: Trainings) -> None:
        tally = kill_and_resume(trainings, 3, seed=1)
        assert tally.faults == []

    @pytest.mark.faults
    def test_at_fifty_random_moments_loses_nothing(self, trainings: Trainings, record_figure: Callable[..., None]) -> None:
        tally = kill_and_resume(trainings, 50, seed=2)
        record_figure("kill -9, resumed: equal to the undisturbed training", target="50 of 50", measured=str(tally))
        assert tally.faults == []


class TestStop:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_at_a_random_moment_loses_nothing(self, trainings: Trainings, number: signal.Signals) -> None:
        tally = stop_and_resume(trainings, 2, seed=1, number=number)
        assert tally.faults == []

    @pytest.mark.faults
    def test_at_twenty_random_moments_loses_nothing(self, trainings: Trainings, record_figure: Callable[..., None]) -> None:
        tally = stop_and_resume(trainings, 20, seed=2, number=signal.SIGTERM)
        record_figure("SIGTERM: saved, status 143, resumed: equal", target="20 of 20", measured=str(tally))
        assert tally.faults == []


class TestSecondTraining:
    def test_is_refused_while_the_first_lives(self, trainings: Trainings, start_process: Callable[..., Any]) -> None:
        def second() -> int:
            until = time.monotonic() + 60
            while not (trainings.fold("twice") / "training.lock").exists() and time.monotonic() < until:
                time.sleep(0.01)
            os.environ["nnUNet_results"] = str(trainings.folder / "twice")
            from fuse4seg.cli.train import main

            return main(FLAGS)

        log = trainings.folder / "second.txt"
        refused = start_process(second, log)
        first = trainings.run("twice", PACES[1])
        assert refused.wait(60) == 1
        assert log.read_text().startswith(f"error: {trainings.fold('twice')} is in use by process ")
        assert log.read_text().count("\n") == 1
        assert first.status == 0
        assert trainings.equal("twice") == []

"""Background processes that are killed, and memory that is too small for them: one line, no waiting, nothing lost."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import blosc2
import pytest

from fuse4seg import machine
from fuse4seg.cli import preprocess, train

CHANGES = ("pretraining.epochs=1", "training.epochs=9999")
FOLD = Path("Dataset990_Phantom", f"Fuse4SegTrainer-{'-'.join(CHANGES)}__Fuse4SegPlans__2d", "fold_0")
#: Of training: it would go on for hours.
FLAGS = ["990", "2d", "0", "-device", "cpu", "--set", *CHANGES]
LIKELY_CAUSE = "most likely for want of memory"


def children(pid: int) -> list[int]:
    """Processes that a process has started and that still run."""
    try:
        return [int(word) for path in Path(f"/proc/{pid}/task").glob("*/children") for word in path.read_text().split()]
    except OSError:
        return []


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def wait_for(wanted: Callable[[], Any], seconds: float = 120) -> Any:
    """What ``wanted`` gives once it is anything."""
    until = time.monotonic() + seconds
    while not (found := wanted()):
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.01)
    return found


@pytest.fixture
def run(start_process: Callable[..., Any], tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Function that starts a command in a process of its own, and ends it with the test; its output is in log.txt."""
    started = []

    def start(work: Callable[[], int]) -> Any:
        started.append(start_process(work, tmp_path / "log.txt"))
        return started[-1]

    yield start
    for process in started:
        process.end_group()


def error_lines(log: str) -> list[str]:
    assert "Traceback" not in log, log
    return [line for line in log.replace("\r", "\n").splitlines() if line.startswith("error: ")]


class TestKilledWorker:
    def test_of_augmentation_ends_the_training_and_keeps_its_checkpoint(self, planned_phantom: Path, tmp_path: Path,
                                                                        run: Callable[..., Any]) -> None:
        fold = tmp_path / "results" / FOLD

        def work() -> int:
            os.environ["nnUNet_results"] = str(tmp_path / "results")
            return train.main(FLAGS)

        command = run(work)
        wait_for((fold / "checkpoint_latest.pth").exists)
        os.kill(wait_for(lambda: children(command.pid))[0], signal.SIGKILL)
        assert command.wait(120) == 1
        line, = error_lines((tmp_path / "log.txt").read_text())
        assert line == (f"error: a background process died while preparing batches, {LIKELY_CAUSE}. "
                        f"Use fewer of them (nnUNet_n_proc_DA=1).")
        assert (fold / "checkpoint_latest.pth").exists()
        assert not (fold / "training.lock").exists()

    def test_of_preprocessing_costs_nothing(self, planned_phantom: Path, tmp_path: Path,
                                            run: Callable[..., Any]) -> None:
        shutil.copytree(planned_phantom, tmp_path / "root")
        data = tmp_path / "root" / "nnUNet_preprocessed" / FOLD.parts[0] / "nnUNetPlans_2d"
        before = {path.name: path.read_bytes() for path in data.iterdir()}
        command = run(lambda: preprocess.main(["-d", "990", "-c", "2d", "-np", "2", "--root", str(tmp_path / "root")]))
        worker, *_ = wait_for(lambda: [pid for pid in children(command.pid) if "spawn_main" in command_line(pid)])
        os.kill(worker, signal.SIGKILL)
        assert command.wait(120) == 0
        assert error_lines((tmp_path / "log.txt").read_text()) == []
        after = {path.name: path.read_bytes() for path in data.iterdir()}
        assert after.keys() == before.keys()
        assert all(after[name] == content for name, content in before.items() if name.endswith(".b2nd"))
        assert not list(data.parent.glob(".*"))


class TestTooLittleMemory:
    @pytest.fixture
    def refused(self, planned_phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
        """Function that runs a command, which must fail, and gives its only error line."""
        monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
        for variable in ("nnUNet_raw", "nnUNet_preprocessed"):
            monkeypatch.setenv(variable, str(planned_phantom / variable))

        def run(main: Callable[[list[str]], int], words: list[str]) -> str:
            assert main(words) == 1
            line, = error_lines(capsys.readouterr().err)
            return line

        return run

    @pytest.mark.parametrize(("where", "what"), [("free_memory", "memory"), ("free_shared_memory", "/dev/shm")])
    def test_for_batches_is_said_before_training_starts(self, where: str, what: str, refused: Callable[..., str],
                                                        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(machine, where, lambda: 10**5)
        line = refused(train.main, FLAGS)
        assert f" GB of {what}, of which 0.0001 GB are free." in line
        assert "use fewer processes (nnUNet_n_proc_DA=1)" in line
        assert not list((tmp_path / "results" / FOLD).glob("*.pth"))

    def test_for_preprocessing_is_said_with_the_number_that_fits(self, refused: Callable[..., str], planned_phantom: Path,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
        folder = planned_phantom / "nnUNet_preprocessed" / FOLD.parts[0]
        before = sorted((folder / "nnUNetPlans_2d").iterdir())
        cropped = json.loads((folder / "dataset_fingerprint.json").read_text())["shapes_after_crop"]
        stored = [blosc2.open(str(path)).shape for path in before if path.match("*[0-9].b2nd")]
        # Both at once, in all channels, of 4 bytes.
        case = max(4 * shape[0] * (math.prod(crop) + math.prod(shape[1:])) for crop, shape in zip(cropped, stored, strict=True))
        for module in ("fuse4seg.machine", "fuse4seg.planning.preprocess"):
            monkeypatch.setattr(f"{module}.free_memory", lambda: 3 * case)
        line = refused(preprocess.main, ["-d", "990", "-c", "2d", "-np", "4"])
        assert line == (f"error: preprocessing with 4 processes needs at least {4 * case / 1e9:.3g} GB of memory, of which "
                        f"{3 * case / 1e9:.3g} GB are free. Use -np 3.")
        assert sorted((folder / "nnUNetPlans_2d").iterdir()) == before

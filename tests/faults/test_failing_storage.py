"""Damaged checkpoints and full disks: noticed, said in one line, and nothing is lost that was there."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fuse4seg.checkpoint import load_checkpoint, previous_of
from fuse4seg.cli import predict, preprocess, train
from fuse4seg.model_errors import CheckpointError
from fuse4seg.training.epoch import Epoch
from fuse4seg.training.run import Training, make_trainer
from fuse4seg.training.stage_1 import Stage1

DATASET = "Dataset990_Phantom"
FOLD = Path(DATASET, "Fuse4SegTrainer__Fuse4SegPlans__2d", "fold_0")
LATEST = {1: "pretraining_latest.pth", 2: "checkpoint_latest.pth"}
STAGES = {1: "pre-training", 2: "training"}
Work = Callable[[], int]
StartProcess = Callable[[Work, Path], Any]
Differences = Callable[[Any, Any], list[str]]


def ended(start_process: StartProcess, work: Work, log: Path) -> tuple[int | None, str]:
    """Status and words of work in a process of its own."""
    child = start_process(work, log)
    try:
        status = child.wait(300)
    finally:
        child.end_group()
    return status, log.read_text() if log.exists() else ""


def content(folder: Path, *, but: str = "training_log") -> dict[str, str]:
    """Checksums of all files in a folder, hidden ones, too."""
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*")
            if path.is_file() and but not in path.name}


def error_line(log: str) -> str:
    """The one line that a failed command ends with, "" where there is more to its failure than that."""
    lines = [line for line in log.replace("\r", "\n").splitlines() if line.startswith("error: ")]
    return lines[0] if len(lines) == 1 and log.rstrip().endswith(lines[0]) and "Traceback" not in log else ""


@pytest.fixture(scope="module")
def interrupted(planned_phantom: Path, training_flags: list[str], start_process: StartProcess,
                tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """By stage, a results root of a training that was killed after its first epoch, with every iteration saved."""
    roots = {}
    for stage, name in STAGES.items():
        roots[stage] = tmp_path_factory.mktemp("interrupted") / "results"

        def work(stage: int = stage, name: str = name) -> int:
            whole = Epoch.run

            def run(self: Epoch, *arguments: Any, **options: Any) -> None:
                if (self.stage, self.number) == (name, 1):
                    os.kill(os.getpid(), signal.SIGKILL)
                whole(self, *arguments, **options)

            Epoch.run = run
            os.environ["nnUNet_results"] = str(roots[stage])
            return train.main([*training_flags, "--save_every", "1", "0.0001min"])

        status, log = ended(start_process, work, roots[stage].with_suffix(".txt"))
        assert status == -signal.SIGKILL, log
    return roots


@pytest.fixture(scope="module")
def undisturbed(trained_model: Path) -> dict[str, Any]:
    """What the same training ends with."""
    return {name: torch.load(trained_model / "fold_0" / name, weights_only=True)
            for name in ("checkpoint_final.pth", "pretrained.pth")}


def resume(training_flags: list[str], results: Path) -> Work:
    """Go on with a training, without the validation at its end."""

    def work() -> int:
        os.environ["nnUNet_results"] = str(results)
        from fuse4seg.training.trainer import Fuse4SegTrainer

        Fuse4SegTrainer.perform_actual_validation = lambda *_: None
        return train.main([*training_flags, "--c"])

    return work


def wrong_end(results: Path, undisturbed: dict[str, Any], differences: Differences) -> list[str]:
    """Where a training's end differs from the undisturbed one's."""
    return [f"{name}{line}" for name, wanted in undisturbed.items()
            for line in differences(torch.load(results / FOLD / name, weights_only=True), wanted)]


def readable(path: Path) -> dict[str, Any] | None:
    """A checkpoint's content; None where it is told to be damaged."""
    try:
        return load_checkpoint(path)
    except CheckpointError:
        return None


def damage(path: Path, draws: random.Random) -> str:
    """Cut a file off, or flip up to eight of its bytes, at random; says what was done."""
    whole = bytearray(path.read_bytes())
    if draws.random() < 0.5:
        length = draws.randrange(len(whole))
        path.write_bytes(whole[:length])
        return f"cut off at {length} of {len(whole)}"
    places = draws.sample(range(len(whole)), draws.randint(1, 8))
    for place in places:
        whole[place] ^= draws.randint(1, 255)
    path.write_bytes(whole)
    return f"flipped at {places} of {len(whole)}"


class TestDamagedCheckpoint:
    @pytest.fixture
    def survives(self, interrupted: dict[int, Path], training_flags: list[str], undisturbed: dict[str, Any],
                 differences: Differences, start_process: StartProcess, tmp_path: Path, planned_phantom: Path,
                 monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Callable[..., list[str]]:
        """Function that damages the latest checkpoint and resumes from the one before; gives what is wrong."""
        for variable in ("nnUNet_raw", "nnUNet_preprocessed"):
            monkeypatch.setenv(variable, str(planned_phantom / variable))

        def run(stage: int, draws: random.Random, *, to_the_end: bool) -> list[str]:
            results = tmp_path / "results"
            shutil.rmtree(results, ignore_errors=True)
            shutil.copytree(interrupted[stage], results)
            latest = results / FOLD / LATEST[stage]
            sound, wanted = latest.read_bytes(), load_checkpoint(latest)
            done = damage(latest, draws)
            while (read := readable(latest)) is not None:
                if wrong := differences(read, wanted):
                    return [f"stage {stage}, {done}: reads {wrong}"]
                # A date or padding was hit.
                latest.write_bytes(sound)
                done = damage(latest, draws)
            monkeypatch.setenv("nnUNet_results", str(results))
            caplog.clear()
            trainer = make_trainer(Training("990", "2d", 0, device="cpu"), resume=True)
            epoch = trainer.epoch
            if stage == 1:
                trainer.initialize()
                taken_up = Stage1(trainer)
                taken_up._take_up()
                epoch = taken_up.epoch
            faults = []
            if (epoch.number, len(epoch.reports)) != (0, 2):
                faults.append(f"goes on with epoch {epoch.number}, iteration {len(epoch.reports)}")
            if f"{latest}: damaged" not in caplog.text or f"Going on from {previous_of(latest)} instead" not in caplog.text:
                faults.append(f"no warning in {caplog.text}")
            if to_the_end and not faults:
                status, log = ended(start_process, resume(training_flags, results), tmp_path / "log.txt")
                faults = [log] if status != 0 else wrong_end(results, undisturbed, differences)
            return [f"stage {stage}, {done}: {fault}" for fault in faults]

        return run

    @pytest.mark.parametrize("stage", STAGES)
    def test_gives_way_to_the_one_before(self, stage: int, survives: Callable[..., list[str]]) -> None:
        draws = random.Random(stage)
        assert [fault for number in range(4) for fault in survives(stage, draws, to_the_end=number == 0)] == []

    @pytest.mark.faults
    def test_gives_way_to_the_one_before_a_hundred_times(self, survives: Callable[..., list[str]],
                                                         record_figure: Callable[..., None]) -> None:
        draws = random.Random(3)
        faults = [survives(1 + number % 2, draws, to_the_end=number % 10 < 2) for number in range(100)]
        record_figure("latest checkpoint truncated or with flipped bytes: detected, previous used", target="100 of 100",
                      measured=f"{faults.count([])} of 100 (20 of them trained to the end: equal)")
        assert [fault for some in faults for fault in some] == []


class TestFullDisk:
    """The system refuses to write beyond a size of file, as it does on a full disk; the long forms fill a disk."""

    def test_during_a_checkpoint(self, interrupted: dict[int, Path], training_flags: list[str], undisturbed: dict[str, Any],
                                 differences: Differences, start_process: StartProcess, tmp_path: Path) -> None:
        for stage, root in interrupted.items():
            results = tmp_path / f"stage_{stage}"
            shutil.copytree(root, results)
            before = content(results)
            limit = (results / FOLD / LATEST[stage]).stat().st_size // 2
            go_on = resume(training_flags, results)
            status, log = ended(start_process, limited(go_on, limit), tmp_path / "log.txt")
            assert (status, error_line(log)) == (1, f"error: cannot write to {results / FOLD} (File too large). Free space, "
                                                    f"choose another folder, or change its permissions."), log
            after = content(results)
            assert {name: after[name] for name in before if name.endswith(".pth")} == {
                name: digest for name, digest in before.items() if name.endswith(".pth")}
            assert not [name for name in after if "partial" in name]
            (tmp_path / "log.txt").unlink()
            assert ended(start_process, go_on, tmp_path / "log.txt")[0] == 0
            assert wrong_end(results, undisturbed, differences) == []

    def test_during_preprocessing(self, planned_phantom: Path, start_process: StartProcess, tmp_path: Path) -> None:
        shutil.copytree(planned_phantom, tmp_path / "root")
        before = content(tmp_path / "root")
        words = ["-d", "990", "-c", "2d", "-np", "2", "--root", str(tmp_path / "root")]
        status, log = ended(start_process, limited(lambda: preprocess.main(words), 30_000), tmp_path / "log.txt")
        assert status == 1, log
        assert error_line(log).startswith(f"error: cannot write to {tmp_path / 'root' / 'nnUNet_preprocessed' / DATASET} ("), log
        assert content(tmp_path / "root") == before

    def test_during_prediction(self, trained_phantom: Path, start_process: StartProcess, tmp_path: Path) -> None:
        images, output = trained_phantom / "nnUNet_raw" / DATASET / "imagesTs", tmp_path / "out"
        words = ["-i", str(images), "-o", str(output), "-device", "cpu", "--root", str(trained_phantom)]
        output.mkdir()
        (output / "earlier.nii.gz").write_bytes(b"earlier")
        status, log = ended(start_process, limited(lambda: predict.main(words), 5_000), tmp_path / "log.txt")
        assert status == 1, log
        assert error_line(log).startswith(f"error: cannot write to {output}"), log
        assert (output / "earlier.nii.gz").read_bytes() == b"earlier"
        assert not [name for name in content(output) if "partial" in name or "phantom" in name]


def limited(work: Work, size: int) -> Work:
    """Work that cannot make a file larger than ``size``, nor can the processes that it starts."""

    def run() -> int:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        return work()

    return run


NEW_MOUNTS, NEW_USERS = 0x00020000, 0x10000000
CANNOT_MOUNT = 77


class SmallDisk:
    """Work on a disk of a few megabytes, a tmpfs that no other process sees.

    Args:
        place: Empty folder that becomes the disk.
        fill: Puts there what was there before.
        work: Is done once with the disk nearly full, and once more, where ``again``, when there is room.
        again: Whether it is.
    """

    def __init__(self, place: Path, fill: Callable[[], object], work: Work, *, again: bool = False) -> None:
        self.place, self.fill, self.work, self.again = place, fill, work, again
        self.report = place.with_name(f"{place.name}.json")

    def __call__(self, free: int) -> Work:
        """The work where so many bytes are free; leaves a report, and with ``again`` a copy of the disk, beside the place."""

        def run() -> int:
            if not self._mount():
                return CANNOT_MOUNT
            self.fill()
            before = content(self.place)
            filler = self.place / "filler"
            with filler.open("wb") as stream:
                os.posix_fallocate(stream.fileno(), 0, max(1, shutil.disk_usage(self.place).free - free))
            status = self.work()
            filler.unlink()
            after = content(self.place)
            self.report.write_text(json.dumps({"before": before, "after": after, "damaged": damaged_files(self.place)}))
            if self.again and status != 0:
                assert self.work() == 0, "not even with room"
                shutil.copytree(self.place, self.place.with_name("copy"), dirs_exist_ok=True)
            return status

        return run

    def _mount(self) -> bool:
        libc = ctypes.CDLL(None, use_errno=True)
        user = os.getuid()
        if libc.unshare(NEW_MOUNTS | (NEW_USERS if user else 0)) != 0:
            return False
        if user:
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        mounts = (["--make-rprivate", "/"], ["-t", "tmpfs", "-o", "size=64m", "tmpfs", str(self.place)])
        return all(subprocess.run(["mount", *words], check=False).returncode == 0 for words in mounts)


def damaged_files(folder: Path) -> list[str]:
    """Checkpoints and JSON files that cannot be read; debug.json, which nnU-Net writes, is for people."""
    found = []
    for path in sorted(folder.rglob("*")):
        try:
            if path.suffix == ".pth":
                load_checkpoint(path)
            elif path.suffix == ".json" and path.name != "debug.json":
                json.loads(path.read_text())
        except (CheckpointError, ValueError) as error:
            found.append(str(error))
    return found


class TestSmallDisk:
    """A disk that is really full, at a random place of what is written."""

    def run(self, disk: SmallDisk, start_process: StartProcess, times: int, *, most_free: int, seed: int,
            kept: Callable[[str], bool], check: Callable[[], list[str]] = list) -> list[str]:
        """Work until it has failed so many times for want of room; gives a line for each time that something was wrong."""
        draws, faults, failures = random.Random(seed), [], 0
        log = disk.place.with_name("log.txt")
        while failures < times:
            log.unlink(missing_ok=True)
            shutil.rmtree(disk.place.with_name("copy"), ignore_errors=True)
            free = draws.randrange(most_free)
            status, said = ended(start_process, disk(free), log)
            if status == CANNOT_MOUNT:
                pytest.skip("no file system may be mounted here")
            if status == 0:
                continue
            failures += 1
            report = json.loads(disk.report.read_text()) if status == 1 else {"before": {}, "after": {}, "damaged": []}
            lost = [name for name, digest in report["before"].items() if kept(name) and report["after"].get(name) != digest]
            half = [name for name in report["after"] if "partial" in name]
            errors = [line for line in said.replace("\r", "\n").splitlines() if line.startswith("error: ")]
            wrong = [f"status {status}"] * (status != 1) + lost + half + report["damaged"] + check()
            if wrong or len(errors) != 1 or "Traceback" in said:
                faults.append(f"{free} bytes free: {wrong[:3]}, {said[-1500:]}")
        return faults

    @pytest.mark.faults
    @pytest.mark.parametrize("stage", STAGES)
    def test_during_checkpoints(self, stage: int, interrupted: dict[int, Path], training_flags: list[str],
                                undisturbed: dict[str, Any], differences: Differences, start_process: StartProcess,
                                tmp_path: Path, record_figure: Callable[..., None]) -> None:
        place = tmp_path / "results"
        place.mkdir()
        disk = SmallDisk(place, lambda: shutil.copytree(interrupted[stage], place, dirs_exist_ok=True),
                         resume(training_flags, place), again=True)
        size = (interrupted[stage] / FOLD / LATEST[stage]).stat().st_size
        # A run may save more than once and then fail: what must stay as it was is what it does not write anew.
        kept = ("plans.json", "dataset.json", "dataset_fingerprint.json", "pretrained.pth")
        faults = self.run(disk, start_process, 10, most_free=2 * size, seed=stage, kept=lambda name: name.endswith(kept),
                          check=lambda: wrong_end(place.with_name("copy"), undisturbed, differences))
        record_figure(f"disk full during checkpoints of stage {stage}: one line, resumed with room: equal", target="10 of 10",
                      measured=f"{10 - len(faults)} of 10")
        assert faults == []

    @pytest.mark.faults
    def test_during_preprocessing(self, planned_phantom: Path, start_process: StartProcess, tmp_path: Path,
                                  record_figure: Callable[..., None]) -> None:
        place = tmp_path / "nnUNet_preprocessed"
        place.mkdir()
        words = ["-d", "990", "-c", "2d", "-np", "2"]

        def work() -> int:
            os.environ["nnUNet_preprocessed"] = str(place)
            os.environ["nnUNet_raw"] = str(planned_phantom / "nnUNet_raw")
            return preprocess.main(words)

        source = planned_phantom / "nnUNet_preprocessed"
        size = sum(path.stat().st_size for path in (source / DATASET / "nnUNetPlans_2d").iterdir())
        disk = SmallDisk(place, lambda: shutil.copytree(source, place, dirs_exist_ok=True), work)
        faults = self.run(disk, start_process, 5, most_free=size, seed=5, kept=lambda _: True)
        record_figure("disk full during preprocessing: one line, earlier data intact", target="5 of 5",
                      measured=f"{5 - len(faults)} of 5")
        assert faults == []

    @pytest.mark.faults
    def test_during_prediction(self, trained_phantom: Path, start_process: StartProcess, tmp_path: Path,
                               record_figure: Callable[..., None]) -> None:
        place = tmp_path / "out"
        place.mkdir()
        images = trained_phantom / "nnUNet_raw" / DATASET / "imagesTs"
        words = ["-i", str(images), "-o", str(place), "-device", "cpu", "--root", str(trained_phantom), "--save_attention",
                 "--save_panels", "--save_probabilities"]
        disk = SmallDisk(place, lambda: (place / "earlier.nii.gz").write_bytes(b"earlier"), lambda: predict.main(words))
        faults = self.run(disk, start_process, 20, most_free=400_000, seed=6, kept=lambda _: True)
        record_figure("disk full during prediction: one line, earlier files intact, none half-written", target="20 of 20",
                      measured=f"{20 - len(faults)} of 20")
        assert faults == []

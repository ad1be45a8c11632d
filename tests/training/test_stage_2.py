"""Stage 2: ended early by patience, which costs nothing, and by the time, to which learning rates are fitted."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from fuse4seg.cli.train import main
from fuse4seg.model_errors import TrainingStoppedError
from fuse4seg.steps.schedule import Schedule
from fuse4seg.training import limits
from fuse4seg.training.acceleration import Acceleration
from fuse4seg.training.limits import Limits
from fuse4seg.training.run import Conduct, Training, make_trainer, train
from fuse4seg.training.stage_1 import Stage1
from fuse4seg.training.trainer import Fuse4SegTrainer

CHANGES = ("pretraining.epochs=0", "training.epochs=6", "training.iterations=1")
SHORT = Training("990", "2d", 0, device="cpu", changes=CHANGES)
FLAGS = ["990", "2d", "0", "-device", "cpu", "--set", *CHANGES]
MODEL = Path("Dataset990_Phantom", SHORT.folder_name)


def load(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


@pytest.fixture
def best_is_the_second_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is learnt."""
    monkeypatch.setattr(Fuse4SegTrainer, "on_validation_epoch_end", lambda trainer, _outputs: [
        trainer.logger.log(name, value, trainer.current_epoch)
        for name, value in (("mean_fg_dice", 0.9 if trainer.current_epoch == 1 else 0.1), ("dice_per_class_or_region", [0.1]),
                            ("val_losses", 1.0))])


@pytest.mark.usefixtures("best_is_the_second_epoch")
class TestPatience:
    def test_ends_the_training_as_the_undisturbed_one_was_there_and_loses_nothing(
            self, own_results: Path, differences: Callable[[Any, Any], list[str]], caplog: pytest.LogCaptureFixture) -> None:
        fold = own_results / MODEL / "fold_0"
        make_trainer(SHORT).run_training()
        undisturbed = load(fold / "checkpoint_final.pth")
        shutil.rmtree(fold)

        patient = Conduct(limits=Limits(patience=2))
        with caplog.at_level("INFO"):
            make_trainer(SHORT, conduct=patient).run_training()
        assert "no better for 2 epochs, so the training ends after 4 of 6 epochs. The best one was epoch 1." in caplog.text
        final = load(fold / "checkpoint_final.pth")
        assert (final["current_epoch"], final["epochs"]) == (4, 6)
        assert load(fold / "checkpoint_best.pth")["current_epoch"] == 2
        assert not (fold / "checkpoint_latest.pth").exists()
        for entry, values in final["logging"].items():
            if not entry.endswith("_timestamps"):
                assert differences(values, undisturbed["logging"][entry][:4]) == [], entry

        # With the same patience it is at its end; without, it goes on where it was.
        make_trainer(SHORT, resume=True, conduct=patient).run_training()
        assert differences(load(fold / "checkpoint_final.pth"), final) == []
        make_trainer(SHORT, resume=True).run_training()
        assert differences(load(fold / "checkpoint_final.pth"), undisturbed) == []

    def test_that_is_not_lost_changes_nothing(self, own_results: Path, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level("INFO"):
            make_trainer(SHORT, conduct=Conduct(limits=Limits(patience=4))).run_training()
        assert load(own_results / MODEL / "fold_0" / "checkpoint_final.pth")["current_epoch"] == 6
        assert "no better" not in caplog.text


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock on which an iteration of either stage takes ten seconds and all else nothing."""
    now = [0.0]
    for owner, name in ((Fuse4SegTrainer, "train_step"), (Stage1, "_step")):
        undisturbed = getattr(owner, name)

        def taking_its_time(self: Any, batch: Any, undisturbed: Callable[..., Any] = undisturbed) -> Any:
            now[0] += 10
            return undisturbed(self, batch)

        monkeypatch.setattr(owner, name, taking_its_time)
    monkeypatch.setattr(limits, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


class TestMaxTime:
    def test_fits_epochs_and_rates_to_the_time_and_is_finished_then(self, own_results: Path, clock: list[float],
                                                                    capsys: pytest.CaptureFixture[str]) -> None:
        assert main([*FLAGS, "--max_time", "0.6min"]) == 0
        said = capsys.readouterr().err
        assert "the time allows 3 of 6 epochs; learning rates are fitted to them." in said
        assert "the time is up after 3 of 6 epochs." in said
        assert "Mean Validation Dice" in said
        fold = own_results / MODEL / "fold_0"
        final = load(fold / "checkpoint_final.pth")
        assert (final["current_epoch"], final["epochs"], clock[0]) == (3, 3, 30)
        recipe, logged = final["recipe"], final["logging"]
        for entry, level in (("lrs", "follower"), ("leader_lrs", "leader")):
            moved = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
            schedule = Schedule([moved], start=recipe[level]["rate"], epochs=3, shape=recipe[level]["schedule"])
            wanted = []
            for epoch in range(3):
                schedule.step(epoch)
                wanted.append(moved.param_groups[0]["lr"])
            np.testing.assert_allclose(logged[entry], wanted)
        assert recipe["follower"]["schedule"] == "polynomial"

        assert main([*FLAGS, "--c"]) == 0
        assert load(fold / "checkpoint_final.pth")["current_epoch"] == 3
        assert "epoch 3: " not in capsys.readouterr().err

    def test_that_is_long_enough_changes_nothing(self, own_results: Path, clock: list[float],
                                                 differences: Callable[[Any, Any], list[str]]) -> None:
        make_trainer(SHORT).run_training()
        wanted = load(own_results / MODEL / "fold_0" / "checkpoint_final.pth")
        shutil.rmtree(own_results)
        make_trainer(SHORT, conduct=Conduct(limits=Limits(seconds=60))).run_training()
        assert differences(load(own_results / MODEL / "fold_0" / "checkpoint_final.pth"), wanted) == []

    def test_counts_anew_with_c(self, own_results: Path, clock: list[float]) -> None:
        """Too short for an epoch of two iterations: it is saved in the middle, and goes on for as long again."""
        training = Training("990", "2d", 0, device="cpu", changes=(*CHANGES[:2], "training.iterations=2"))
        latest = own_results / MODEL.parent / training.folder_name / "fold_0" / "checkpoint_latest.pth"
        with pytest.raises(TrainingStoppedError, match=f"^stopped by --max_time; everything is saved in {latest}") as stopped:
            train(training, conduct=Conduct(limits=Limits(seconds=5)))
        assert stopped.value.status == 143
        state = load(latest)
        assert (state["current_epoch"], len(state["reports"])) == (0, 1)
        train(training, resume=True, conduct=Conduct(limits=Limits(seconds=50)))
        final = load(latest.with_name("checkpoint_final.pth"))
        # Ten seconds for the rest of the first epoch, twenty for each of two more.
        assert (final["current_epoch"], clock[0]) == (3, 60)

    def test_is_not_reckoned_by_an_epoch_that_compiles(self, own_results: Path, clock: list[float],
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
        """A hundred seconds for the first epoch and ten for each other; nothing is compiled, which takes real time."""
        monkeypatch.setattr("fuse4seg.training.trainer.compiled", lambda _network, *, on: nullcontext())
        undisturbed = Fuse4SegTrainer.on_train_start

        def compiling(trainer: Fuse4SegTrainer) -> None:
            undisturbed(trainer)
            slow = trainer.train_step

            def first(batch: Any) -> Any:
                clock[0] += 90
                trainer.train_step = slow
                return slow(batch)

            trainer.train_step = first

        monkeypatch.setattr(Fuse4SegTrainer, "on_train_start", compiling)
        trainer = make_trainer(SHORT, conduct=Conduct(limits=Limits(seconds=135)))
        trainer.acceleration = Acceleration(compile=True)
        trainer.run_training()
        assert (trainer.current_epoch, clock[0]) == (4, 130)

    def test_is_shared_by_both_stages(self, own_results: Path, clock: list[float]) -> None:
        training = Training("990", "2d", 0, device="cpu", changes=("pretraining.epochs=4", *CHANGES[1:]))
        make_trainer(training, conduct=Conduct(limits=Limits(seconds=50))).run_training()
        fold = own_results / MODEL.parent / training.folder_name / "fold_0"
        assert load(fold / "pretrained.pth")["epochs_done"] == 2
        assert load(fold / "checkpoint_final.pth")["current_epoch"] == 3
        assert clock[0] == 50


class TestWatchedPatch:
    def test_is_asked_for_only_by_loggers(self, own_results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("fuse4seg.training.trainer.WatchedPatch", lambda _trainer: pytest.fail("nobody looks"))
        make_trainer(Training("990", "2d", 0, device="cpu", changes=(CHANGES[0], "training.epochs=1", CHANGES[2]))).run_training()

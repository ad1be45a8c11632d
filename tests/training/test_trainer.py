"""The trainer: repeatable bit for bit, interrupted without loss, and explicit about what stopped it."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt

from fuse4seg.checkpoint import save_checkpoint
from fuse4seg.cli.train import main
from fuse4seg.followers import unet
from fuse4seg.model_errors import NonFiniteLossError
from fuse4seg.networks.follower import FollowerKind
from fuse4seg.paths import LATEST
from fuse4seg.steps.pretraining import PretrainingStep
from fuse4seg.training.data import TRAIN_STREAM, SeededBatches, batch_makers
from fuse4seg.training.run import Conduct, Training, make_trainer, pretrain, train
from fuse4seg.training.saving import SaveEvery
from fuse4seg.training.stage_1 import PRETRAINED, PRETRAINING_LATEST
from fuse4seg.training.trainer import Fuse4SegTrainer

FOLD_0 = Training("990", "2d", 0, device="cpu")
MODEL = Path("Dataset990_Phantom", "Fuse4SegTrainer__Fuse4SegPlans__2d")
Interrupted = Callable[..., AbstractContextManager[None]]


def of(*changes: str, pretraining: int = 0, epochs: int = 1, iterations: int = 1) -> Training:
    """Fold 0 with hardly any training, and changed entries of its recipe."""
    return replace(FOLD_0, changes=(f"pretraining.epochs={pretraining}", f"training.epochs={epochs}",
                                    f"training.iterations={iterations}", *changes))


def fold_of(training: Training, results: Path) -> Path:
    return results / MODEL.parent / training.folder_name / "fold_0"


def load(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def assert_same_weights(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    """Bit for bit."""
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if not torch.equal(found[name], wanted[name])] == []


def assert_same_training(fold: Path, other: Path) -> None:
    """Both levels' weights, both optimisers, and every loss on the way."""
    found, wanted = (load(folder / "checkpoint_final.pth") for folder in (fold, other))
    assert_same_weights(found["network_weights"], wanted["network_weights"])
    assert_same_weights(found["discriminators"], wanted["discriminators"])
    for optimiser in ("optimizer_state", "leader_optimizer_state", "discriminator_optimizer_state"):
        for index, state in wanted[optimiser]["state"].items():
            assert_same_weights({name: torch.as_tensor(value) for name, value in found[optimiser]["state"][index].items()},
                                {name: torch.as_tensor(value) for name, value in state.items()})
    for entry, values in wanted["logging"].items():
        if "timestamps" not in entry:
            np.testing.assert_array_equal(found["logging"][entry], values, err_msg=entry)
    assert found["_best_ema"] == wanted["_best_ema"]


class TestTraining:
    def test_leaves_what_nnunet_and_a_reader_look_for(self, trained_model: Path) -> None:
        fold = trained_model / "fold_0"
        assert {path.name for path in trained_model.iterdir()} >= {"plans.json", "dataset.json", "dataset_fingerprint.json"}
        assert {path.name for path in fold.iterdir()} >= {"checkpoint_final.pth", "checkpoint_best.pth", PRETRAINED,
                                                         "progress.png", "validation"}
        assert not (fold / "checkpoint_latest.pth").exists()
        assert not (fold / PRETRAINING_LATEST).exists()
        assert (fold / "validation" / "summary.json").is_file()
        assert not list(fold.glob(".*"))

    def test_draws_its_progress(self, trained_model: Path) -> None:
        picture = plt.imread(trained_model / "fold_0" / "progress.png")
        # Both stages, fusion losses, the ratio, and learning rates, which have a row to themselves.
        assert picture.shape[:2] == (960, 960)
        assert float(picture[..., :3].std()) > 0.01

    def test_writes_what_it_said_to_its_log_file(self, trained_model: Path) -> None:
        log_file, = (trained_model / "fold_0").glob("training_log_*.txt")
        text = log_file.read_text()
        for line in ("pre-training epoch 0: total", "pre-training epoch 1:", "epoch 0: upper", "epoch 1: upper",
                     "pseudo Dice", "validation Dice of 1:", "Mean Validation Dice:"):
            assert line in text

    def test_saves_checkpoints_that_load_without_running_code(self, trained_model: Path) -> None:
        final = load(trained_model / "fold_0" / "checkpoint_final.pth")
        assert final["current_epoch"] == 2
        assert final["trainer_name"] == "Fuse4SegTrainer"
        assert final["recipe"]["training"]["iterations"] == 2
        assert final["init_args"]["configuration"] == "2d"
        assert len(final["logging"]["train_losses"]) == 2
        assert load(trained_model / "fold_0" / "checkpoint_best.pth")["current_epoch"] in (1, 2)

    def test_moves_leader_follower_and_discriminators(self, trained_model: Path, own_results: Path) -> None:
        trainer = make_trainer(FOLD_0)
        trainer.initialize()
        final = load(trained_model / "fold_0" / "checkpoint_final.pth")
        pretrained = load(trained_model / "fold_0" / PRETRAINED)
        trained = final["network_weights"]
        still = [name for name, value in trainer.network.named_parameters() if torch.equal(value, trained[name])]
        assert still == ["segmentation.decoder.seg_layers.0.bias"]  # nnU-Net gives the lowest resolution no weight
        kept = [name for name, value in pretrained["fusion"].items() if torch.equal(value, trained[f"fusion.{name}"])]
        assert kept == ["decoder.paint.weight", "decoder.paint.bias"]  # which reconstructs in pre-training
        assert all(not torch.equal(value, final["discriminators"][name])
                   for name, value in trainer.levels.adversary.named_parameters())

    def test_leaves_a_leader_of_learning_rate_0_as_it_starts(self, own_results: Path) -> None:
        frozen = of("leader.rate=0")
        trainer = make_trainer(frozen)
        trainer.initialize()
        train(frozen)
        trained = load(fold_of(frozen, own_results) / "checkpoint_final.pth")["network_weights"]
        still = [name for name, value in trainer.network.named_parameters() if torch.equal(value, trained[name])]
        assert still == [*(f"fusion.{name}" for name, _ in trainer.network.fusion.named_parameters()),
                         "segmentation.decoder.seg_layers.0.bias"]

    def test_repeats_bit_for_bit(self, trained_model: Path, training_flags: list[str], own_results: Path) -> None:
        assert main(training_flags) == 0
        again = own_results / MODEL
        assert_same_weights(load(again / "fold_0" / PRETRAINED)["fusion"],
                            load(trained_model / "fold_0" / PRETRAINED)["fusion"])
        assert_same_training(again / "fold_0", trained_model / "fold_0")
        segmentation, = (again / "fold_0" / "validation").glob("*.nii.gz")
        assert segmentation.read_bytes() == (trained_model / "fold_0" / "validation" / segmentation.name).read_bytes()

    def test_of_another_seed_has_other_weights_and_other_batches(self, own_results: Path) -> None:
        weights, batches = [], []
        for seed in (3, 3, 4):
            trainer = make_trainer(FOLD_0, seed=seed)
            trainer.initialize()
            weights.append(torch.cat([value.flatten() for value in trainer.network.parameters()]))
            maker = SeededBatches(batch_makers(trainer)[0], seed=seed, stream=TRAIN_STREAM)
            batches.append(maker[0]["data"])
        assert torch.equal(weights[0], weights[1])
        assert not torch.equal(weights[0], weights[2])
        assert torch.equal(batches[0], batches[1])
        assert not torch.equal(batches[0], batches[2])

    def test_of_fold_all_trains_and_validates_on_all_cases(self, own_results: Path) -> None:
        trainer = make_trainer(Training("990", "2d", "all", device="cpu"))
        cases = [f"phantom_{number:03d}" for number in range(5)]
        assert [sorted(part) for part in trainer.do_split()] == [cases, cases]
        assert Path(trainer.output_folder) == own_results / MODEL / "fold_all"


class TestSegmentationLoss:
    @pytest.mark.parametrize(("cross_entropy", "dice"), [(1, 1), (0.5, 0), (0, 2), (0.25, 3)])
    def test_is_nnunets_with_its_parts_weighed_at_every_resolution(self, cross_entropy: float, dice: float,
                                                                   own_results: Path) -> None:
        trainer = make_trainer(of(f"bilevel.cross_entropy={cross_entropy}", f"bilevel.dice={dice}"))
        trainer.initialize()
        stock = trainer._build_loss()
        with torch.no_grad():
            outputs = trainer.network(torch.randn(2, trainer.network.modalities, *trainer.configuration_manager.patch_size))
            targets = [torch.randint(output.shape[1], (2, 1, *output.shape[2:])) for output in outputs]
            entropies = [torch.nn.functional.cross_entropy(output, target[:, 0])
                         for output, target in zip(outputs, targets, strict=True)]
            whole = float(sum(weight * part for weight, part in zip(stock.weight_factors, entropies, strict=True)))
            wanted = cross_entropy * whole + dice * (float(stock(outputs, targets)) - whole)
            assert float(trainer.bilevel_step.segmentation_loss(outputs, targets)) == pytest.approx(wanted, rel=1e-5)
            at_one = cross_entropy * entropies[0] + dice * (stock.loss(outputs[0], targets[0]) - entropies[0])
            found = trainer.bilevel_step.auxiliary.segmentation_loss(outputs[0], targets[0])
        assert float(found) == pytest.approx(float(at_one), rel=1e-5)
        assert len(outputs) > 1


class TestFollowerWithoutDeepSupervision:
    def test_is_taught_at_full_resolution_alone(self, own_results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(unet, "FOLLOWER", FollowerKind(deep_supervision=False))
        trainer = make_trainer(of())
        trainer.initialize()
        assert not trainer.enable_deep_supervision
        channels = torch.randn(2, trainer.network.modalities, *trainer.configuration_manager.patch_size)
        assert isinstance(trainer.network(channels), torch.Tensor)
        train(of())
        state = load(fold_of(of(), own_results) / "checkpoint_final.pth")
        assert np.isfinite(state["logging"]["train_losses"]).all()


class TestFollowersOptimiser:
    def test_is_adamw_where_the_recipe_says_so_and_is_kept(self, own_results: Path) -> None:
        training = of("follower.optimiser=adamw", "follower.rate=1e-4", "follower.momentum=0", "follower.nesterov=false")
        train(training)
        state = load(fold_of(training, own_results) / "checkpoint_final.pth")["optimizer_state"]
        assert state["state"][0].keys() == {"step", "exp_avg", "exp_avg_sq"}
        assert state["param_groups"][0]["initial_lr" if "initial_lr" in state["param_groups"][0] else "lr"] <= 1e-4


class TestTwoStages:
    """A plan so small that its only output is the one that nnU-Net's deep supervision weighs 0."""

    @pytest.fixture
    def two_stages(self, own_results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = tmp_path / "nnUNet_preprocessed" / MODEL.parent
        shutil.copytree(Path(os.environ["nnUNet_preprocessed"]) / MODEL.parent, folder)
        plans = json.loads((folder / "Fuse4SegPlans.json").read_text())
        plan = plans["configurations"]["2d"]
        plan["patch_size"] = [12, 12]
        network = plan["architecture"]["arch_kwargs"]
        follower = network["follower"]["arch_kwargs"]
        for arguments in (network, follower):
            arguments["strides"] = arguments["strides"][:2]
        follower["n_stages"] = 2
        for per_stage in ("features_per_stage", "kernel_sizes", "n_conv_per_stage"):
            follower[per_stage] = follower[per_stage][:2]
        follower["n_conv_per_stage_decoder"] = follower["n_conv_per_stage_decoder"][:1]
        (folder / "Fuse4SegPlans.json").write_text(json.dumps(plans))
        monkeypatch.setenv("nnUNet_preprocessed", str(folder.parent))

    @pytest.mark.usefixtures("two_stages")
    def test_train(self, own_results: Path, trained_model: Path) -> None:
        small = of(pretraining=1, iterations=2)
        train(small)
        logged = load(fold_of(small, own_results) / "checkpoint_final.pth")["logging"]
        assert np.isfinite(logged["train_losses"]).all()
        assert np.isfinite(logged["val_losses"]).all()


class TestInterruptedTraining:
    @pytest.mark.parametrize("left", ["checkpoint_latest.pth",
                                      pytest.param("checkpoint_best.pth", marks=pytest.mark.slow)])
    def test_goes_on_as_if_nothing_had_been(self, trained_model: Path, own_results: Path, training_flags: list[str],
                                            left: str, monkeypatch: pytest.MonkeyPatch, interrupted: Interrupted) -> None:
        fold = own_results / MODEL / "fold_0"
        fold.mkdir(parents=True)
        shutil.copy(trained_model / "fold_0" / PRETRAINED, fold)
        initialize = Fuse4SegTrainer.initialize

        def initialize_and_save_often(trainer: Fuse4SegTrainer) -> None:
            initialize(trainer)
            trainer.save_every = 1

        with monkeypatch.context() as patch, interrupted("training", epoch=1):
            patch.setattr(Fuse4SegTrainer, "initialize", initialize_and_save_often)
            assert main(training_flags) == 130
        for name in {"checkpoint_latest.pth", "checkpoint_best.pth"} - {left}:
            (fold / name).unlink()
        assert load(fold / left)["current_epoch"] == 1

        assert main([*training_flags, "--c"]) == 0
        assert_same_training(fold, trained_model / "fold_0")

    def test_that_is_finished_is_validated_again_by_c(self, trained_model: Path, own_results: Path,
                                                      training_flags: list[str]) -> None:
        shutil.copytree(trained_model, own_results / MODEL)
        (own_results / MODEL / "fold_0" / "validation" / "summary.json").unlink()
        assert main([*training_flags, "--c"]) == 0
        assert (own_results / MODEL / "fold_0" / "validation" / "summary.json").is_file()
        assert_same_training(own_results / MODEL / "fold_0", trained_model / "fold_0")


class TestStop:
    """SIGTERM in the middle of a step."""

    def stop_in(self, patch: pytest.MonkeyPatch, owner: type, name: str, *, call: int) -> None:
        """Send it at the beginning of a method's call of that number."""
        undisturbed, calls = getattr(owner, name), []

        def stopped(*arguments: Any) -> Any:
            calls.append(arguments)
            if len(calls) == call:
                os.kill(os.getpid(), signal.SIGTERM)
            return undisturbed(*arguments)

        patch.setattr(owner, name, stopped)

    @pytest.mark.parametrize(("owner", "name", "call", "file", "epochs", "iterations"), [
        (PretrainingStep, "__call__", 3, PRETRAINING_LATEST, 1, 1), (Fuse4SegTrainer, "train_step", 1, LATEST, 0, 1),
        (Fuse4SegTrainer, "train_step", 4, LATEST, 1, 2), (Fuse4SegTrainer, "validation_step", 2, LATEST, 1, 2)])
    def test_finishes_the_step_saves_and_goes_on_as_if_nothing_had_been(
            self, owner: type, name: str, call: int, file: str, epochs: int, iterations: int, trained_model: Path,
            own_results: Path, training_flags: list[str], monkeypatch: pytest.MonkeyPatch,
            capsys: pytest.CaptureFixture[str]) -> None:
        fold = own_results / MODEL / "fold_0"
        with monkeypatch.context() as patch:
            self.stop_in(patch, owner, name, call=call)
            assert main(training_flags) == 143
        assert capsys.readouterr().err.splitlines()[-1] == (
            f"stopped by SIGTERM; everything is saved in {fold / file}. Go on with f4s_train --c.")
        state = load(fold / file)
        assert (state.get("epochs_done", state.get("current_epoch")), len(state["reports"])) == (epochs, iterations)
        assert not list(fold.glob("*.lock"))

        make_trainer(FOLD_0, resume=True).run_training()
        assert_same_training(fold, trained_model / "fold_0")

    def test_after_the_last_iteration_leaves_the_validation_to_the_resume(self, own_results: Path, training_flags: list[str],
                                                                          trained_model: Path,
                                                                          monkeypatch: pytest.MonkeyPatch) -> None:
        fold = own_results / MODEL / "fold_0"
        with monkeypatch.context() as patch:
            self.stop_in(patch, Fuse4SegTrainer, "on_train_end", call=1)
            assert main(training_flags) == 143
        assert_same_training(fold, trained_model / "fold_0")
        assert not (fold / "validation").exists()


class TestPace:
    def test_of_epochs_and_minutes_is_kept_in_both_stages(self, own_results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        saved: list[tuple[str, int, int]] = []

        def note(state: dict[str, Any], path: Path, **_: Any) -> None:
            saved.append((path.name, state.get("epochs_done", state.get("current_epoch")), len(state["reports"])))
            save_checkpoint(state, path)

        for module in ("trainer", "stage_1"):
            monkeypatch.setattr(f"fuse4seg.training.{module}.save_checkpoint", note)
        never_within = Conduct(SaveEvery(epochs=2, minutes=math.inf))
        make_trainer(of(pretraining=3, epochs=3, iterations=2), conduct=never_within).run_training()
        assert [entry for entry in saved if entry[0] != "checkpoint_best.pth"] == [
            (PRETRAINING_LATEST, 2, 0), (PRETRAINED, 3, 0), (LATEST, 2, 0), ("checkpoint_final.pth", 3, 0)]
        saved.clear()
        shutil.rmtree(own_results)
        make_trainer(of(pretraining=1, iterations=2), conduct=Conduct(SaveEvery(epochs=2, minutes=1e-9))).run_training()
        assert [entry for entry in saved if entry[0] != "checkpoint_best.pth"] == [
            (PRETRAINING_LATEST, 0, 1), (PRETRAINING_LATEST, 0, 2), (PRETRAINED, 1, 0),
            (LATEST, 0, 1), (LATEST, 0, 2), (LATEST, 0, 2), ("checkpoint_final.pth", 1, 0)]


class TestBestCheckpoint:
    def test_is_not_replaced_by_a_worse_one_after_a_resume(self, own_results: Path, monkeypatch: pytest.MonkeyPatch,
                                                           interrupted: Interrupted) -> None:
        """The first epoch is the best; the latest checkpoint, from which the second goes on, has to know."""
        scores = iter([0.9, 0.1])
        monkeypatch.setattr(Fuse4SegTrainer, "on_validation_epoch_end", lambda trainer, _outputs: [
            trainer.logger.log(name, value, trainer.current_epoch)
            for name, value in (("mean_fg_dice", next(scores)), ("dice_per_class_or_region", []), ("val_losses", 1.0))])
        short = of(epochs=2)
        with interrupted("training", epoch=1), pytest.raises(KeyboardInterrupt):
            train(short)
        make_trainer(short, resume=True).run_training()
        assert load(fold_of(short, own_results) / "checkpoint_best.pth")["current_epoch"] == 1


class TestModalityDropout:
    TRAINING = of("training.modality_dropout=0.5", pretraining=1, epochs=2, iterations=2)
    FLAGS = ("990", "2d", "0", "-device", "cpu", "--set", *TRAINING.changes)

    def test_repeats_bit_for_bit_and_goes_on_as_if_nothing_had_been(self, own_results: Path, monkeypatch: pytest.MonkeyPatch,
                                                                    interrupted: Interrupted) -> None:
        fold, drawn = fold_of(self.TRAINING, own_results), []
        stage_2 = Fuse4SegTrainer.train_step
        monkeypatch.setattr(Fuse4SegTrainer, "train_step",
                            lambda trainer, batch: drawn.append(batch["present"]) or stage_2(trainer, batch))
        assert main(self.FLAGS) == 0
        undisturbed = fold.rename(own_results / "undisturbed")
        fold.mkdir()
        shutil.copy(undisturbed / PRETRAINED, fold)
        with interrupted("training", epoch=1):
            assert main(self.FLAGS) == 130
        assert main([*self.FLAGS, "--c"]) == 0
        assert_same_training(fold, undisturbed)
        assert len(drawn) == 8
        assert all(torch.equal(*pair) for pair in zip(drawn[:4], drawn[4:], strict=True))
        assert not torch.cat(drawn).all()
        assert load(fold / "checkpoint_final.pth")["recipe"]["training"]["modality_dropout"] == 0.5

    def test_is_no_matter_of_stage_1(self, trained_model: Path, own_results: Path) -> None:
        trainer = make_trainer(of("training.modality_dropout=0.5", pretraining=2, iterations=2))
        trainer.initialize()
        trainer.run_pretraining()
        assert_same_weights(load(trainer.pretrained_file)["fusion"], load(trained_model / "fold_0" / PRETRAINED)["fusion"])

    def test_leaves_the_validation_s_batches_whole(self, own_results: Path) -> None:
        trainer = make_trainer(of("training.modality_dropout=0.5"))
        trainer.initialize()
        train_batches, validation_batches = trainer.get_dataloaders()
        assert "present" in next(train_batches)
        assert "present" not in next(validation_batches)


class TestNonFiniteLoss:
    @pytest.fixture
    def spoilt(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Training batch 1 holds a NaN."""
        whole = SeededBatches.__getitem__

        def with_nan(batches: SeededBatches, index: int) -> dict[str, Any]:
            batch = whole(batches, index)
            if batches.stream == TRAIN_STREAM and index == 1:
                batch["data"][0, 0].fill_(torch.nan)
            return batch

        monkeypatch.setattr(SeededBatches, "__getitem__", with_nan)

    @pytest.mark.usefixtures("spoilt")
    def test_stops_the_training_names_the_cases_and_keeps_the_last_checkpoint(self, own_results: Path) -> None:
        with pytest.raises(NonFiniteLossError, match=r"training, epoch 1, with the cases phantom_00\d, phantom_00\d"):
            train(of(epochs=2))
        fold = fold_of(of(epochs=2), own_results)
        kept = load(fold / "checkpoint_best.pth")
        assert kept["current_epoch"] == 1
        assert all(bool(torch.isfinite(value).all()) for value in kept["network_weights"].values())
        assert not (fold / "checkpoint_final.pth").exists()

    @pytest.mark.parametrize(("owner", "name"), [(PretrainingStep, "__call__"), (Fuse4SegTrainer, "train_step")])
    def test_of_a_step_whose_gradients_were_none_saves_nothing(self, owner: type, name: str, own_results: Path,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
        """Its own loss is finite: it would be found out by the next step, after the weights were saved as the last good ones."""
        undisturbed, calls = getattr(owner, name), []

        def spoil(self: Any, *arguments: Any) -> dict[str, float]:
            report = undisturbed(self, *arguments)
            calls.append(report)
            if len(calls) == 2:
                model = self.network if isinstance(self, Fuse4SegTrainer) else self.model
                next(model.fusion.parameters()).data.fill_(torch.nan)
            return report

        monkeypatch.setattr(owner, name, spoil)
        with pytest.raises(NonFiniteLossError, match=r"training, epoch 1, with the cases phantom_00\d, phantom_00\d"):
            train(of(pretraining=3, epochs=3))
        assert all(np.isfinite(list(report.values())).all() for report in calls)
        file, weights = (PRETRAINING_LATEST, "fusion") if owner is PretrainingStep else (LATEST, "network_weights")
        kept = load(fold_of(of(pretraining=3, epochs=3), own_results) / file)
        assert all(bool(torch.isfinite(value).all()) for value in kept[weights].values())
        assert kept.get("epochs_done", kept.get("current_epoch")) == 1

    def test_stops_pretraining_too(self, own_results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(PretrainingStep, "__call__", lambda *_: {"total": float("inf")})
        with pytest.raises(NonFiniteLossError, match="pre-training, epoch 0, with the cases phantom"):
            pretrain(of(pretraining=1))
        assert not list(fold_of(of(pretraining=1), own_results).glob("*.pth"))

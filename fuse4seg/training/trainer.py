"""The nnU-Net trainer that pre-trains the leader, then trains leader and follower together."""

from __future__ import annotations

import contextlib
import logging
import pydoc
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from signal import Signals
from typing import Any

import numpy as np
import torch
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA

from fuse4seg.checkpoint import load_checkpoint, load_first_sound, previous_of, require_same_plans, save_checkpoint
from fuse4seg.errors import ForeignPlansError
from fuse4seg.evaluation.volumes import FINGERPRINT
from fuse4seg.files import remove_stale, write_json, written_whole
from fuse4seg.model_errors import CheckpointError, TrainingStoppedError
from fuse4seg.networks.fuse_then_segment import FuseThenSegment
from fuse4seg.nnunet_output import logged_prints
from fuse4seg.paths import BEST, FINAL, LATEST
from fuse4seg.plans import planned_recipe
from fuse4seg.ranks import largest, wait_for_all
from fuse4seg.steps.bilevel import BilevelStep
from fuse4seg.steps.fusion import FusionStep
from fuse4seg.steps.levels import Levels, build_levels
from fuse4seg.steps.schedule import Schedule
from fuse4seg.training.acceleration import Acceleration, autocast_of, compiled, scaler_of, training_precision
from fuse4seg.training.data import (
    TRAIN_STREAM,
    VALIDATION_STREAM,
    Batch,
    BatchStream,
    batch_makers,
    batch_stream,
    require_memory_for_batches,
    without_timing,
)
from fuse4seg.training.distributed import begin_alike, of_whole_batches, share_loss, share_networks, unwrapped
from fuse4seg.training.epoch import Epoch, mean_of
from fuse4seg.training.finetuning import take_over
from fuse4seg.training.fold_lock import locked
from fuse4seg.training.limits import Deadline, Limits
from fuse4seg.training.loggers import History, add_loggers, log_beside, log_epoch
from fuse4seg.training.origin import Origin
from fuse4seg.training.presence import network_told
from fuse4seg.training.recipe import deep_supervision, described_for, require_fit, trained_with, validation_iterations
from fuse4seg.training.saving import SaveEvery, StopRequest, stop_requests
from fuse4seg.training.stage_1 import PRETRAINED, Stage1, difference_in_stage_1, take_up_leader
from fuse4seg.training.stage_2 import Stage2
from fuse4seg.training.state import require_finite_weights, take_up_training, training_state
from fuse4seg.training.validation import validate
from fuse4seg.training.watched_patch import WatchedPatch

log = logging.getLogger(__name__)

#: Sets what was changed apart from the trainer's name in the name of its folder.
CHANGED = "-"


class Fuse4SegTrainer(nnUNetTrainer):
    """nnU-Net's trainer around :class:`FuseThenSegment`.

    Both stages run from ``run_training``; stock ``nnUNetv2_train -tr Fuse4SegTrainer`` works with nnUNet_extTrainer set.
    ``recipe``, which the plans give, ``seed`` and ``origin``, a model to begin with, may be replaced before ``initialize``.

    Args:
        plans, configuration, fold, dataset_json, device: As nnU-Net gives them.
    """

    def __init__(self, plans: dict, configuration: str, fold: int | str, dataset_json: dict,
                 device: torch.device = torch.device("cuda")) -> None:  # noqa: B008 (nnU-Net's signature)
        self.recipe = planned_recipe(plans, plans["plans_name"])
        with logged_prints(), unwrapped(self, device):
            super().__init__(plans, configuration, fold, described_for(self.recipe, dataset_json), device)
        self.logger.local_logger = History()
        self.seed = 0
        self.set_save_every(SaveEvery())
        self.set_limits(Limits())
        self.acceleration = Acceleration.of_environment()
        self.epoch = Epoch("training", 0, [])
        self.stop: StopRequest | None = None
        self.tensorboard = False
        self.watched: WatchedPatch | None = None
        self.origin: Origin | None = None
        self.fine_tuned_from: Mapping[str, str] | None = None
        self._random_states: dict[str, Any] | None = None
        self.levels: Levels | None = None
        self.bilevel_step: BilevelStep | None = None
        self.fusion_step: FusionStep | None = None

    def set_save_every(self, often: SaveEvery) -> None:
        """Choose when the latest checkpoint is written; nnU-Net's 50 epochs would be lost with a job that is cut short."""
        self.save_every, self.save_every_minutes = often.epochs, often.minutes

    def set_limits(self, limits: Limits) -> None:
        """Choose what ends the training early; its time is counted from now."""
        self.limits, self.deadline = limits, Deadline(limits.seconds)

    @property
    def base_name(self) -> str:
        """Name of the class that nnU-Net finds; that of a training with changed entries says what was changed."""
        return type(self).__name__.partition(CHANGED)[0]

    @property
    def segments(self) -> bool:
        """Whether the recipe segments what is fused. Else the fusion losses alone are trained."""
        return self.recipe.segments

    def initialize(self) -> None:
        """Build both levels, their optimisers and the discriminators, seeded."""
        training = self.recipe.training
        self.num_epochs, self.num_iterations_per_epoch = training.epochs, training.iterations
        self.num_val_iterations_per_epoch = validation_iterations(training.iterations)
        if pydoc.locate(self.configuration_manager.network_arch_class_name) is not FuseThenSegment:
            raise ForeignPlansError(self.plans_manager.plans_name)
        require_fit(self.recipe, self.dataset_json)
        self.enable_deep_supervision = deep_supervision(self.recipe, len(self.configuration_manager.pool_op_kernel_sizes))
        if not self.local_rank:
            add_loggers(self.logger, fold=Path(self.output_folder), tensorboard=self.tensorboard,
                        before=self.recipe.pretraining.epochs)
        self.precision = training_precision(self.acceleration.precision, self.device)
        self.grad_scaler = scaler_of(self.precision, self.device)
        torch.manual_seed(self.seed)
        super().initialize()
        take_over(self)
        share_networks(self)
        precision = {"scaler": self.grad_scaler, "autocast": self.autocast}
        if self.segments:
            one_resolution = self.loss.loss if isinstance(self.loss, DeepSupervisionWrapper) else self.loss
            one_resolution.weight_ce, one_resolution.weight_dice = self.recipe.bilevel.cross_entropy, self.recipe.bilevel.dice
            share_loss(one_resolution, ignored=self.label_manager.has_ignore_label, regions=self.label_manager.has_regions)
            self.bilevel_step = self.levels.bilevel_step(self.loss, loss_at_one_resolution=one_resolution, **precision)
        else:
            self.fusion_step = self.levels.fusion_step(**precision)

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, Schedule]:
        """SGD for the follower, as nnU-Net's, and Adam for the leader."""
        recipe, classes = self.recipe, self.label_manager.num_segmentation_heads
        self.levels = levels = build_levels(self.network, classes=classes, recipe=recipe)
        self.leader_schedule = Schedule([levels.leader.optimiser, levels.discriminator_optimiser], start=recipe.leader.rate,
                                        epochs=self.num_epochs, shape=recipe.leader.schedule)
        follower = levels.follower.optimiser
        return follower, Schedule([follower], start=recipe.follower.rate, epochs=self.num_epochs, shape=recipe.follower.schedule)

    def fit_schedules(self, epochs: int) -> None:
        """Let the rates of all optimisers reach their end with so many epochs."""
        self.num_epochs = self.lr_scheduler.epochs = self.leader_schedule.epochs = epochs

    @property
    def autocast(self) -> Callable[[], Any]:
        """Makes the context of forward passes."""
        return autocast_of(self.precision, self.device)

    def _do_i_compile(self) -> bool:
        """Never as nnU-Net does: the two levels call parts of the network, which are compiled instead where that is asked for."""
        return False

    def print_to_log_file(self, *args: object, also_print_to_console: bool = True, add_timestamp: bool = True) -> None:
        """nnU-Net's messages go to the log file, and to the log at debug level."""
        self._append_to_log_file(*args, add_timestamp=add_timestamp)
        log.debug(" ".join(map(str, args)))

    def say(self, message: str) -> None:
        """Log ``message`` where a user sees it, and in the log file."""
        self._append_to_log_file(message)
        log.info(message)

    def _append_to_log_file(self, *words: object, add_timestamp: bool = True) -> None:
        if self.local_rank:
            return
        # nnU-Net waits for seconds when a full disk lets no line through; a checkpoint that fails there says so itself.
        with contextlib.suppress(OSError), Path(self.log_file).open("a") as stream:
            print(*[f"{datetime.now()}:"] * add_timestamp, *words, file=stream)

    @staticmethod
    def get_training_transforms(*args: Any, **kwargs: Any) -> Any:
        """nnU-Net's augmentation, made repeatable."""
        return without_timing(nnUNetTrainer.get_training_transforms(*args, **kwargs))

    def get_dataloaders(self) -> tuple[BatchStream, BatchStream]:
        """Seeded streams of training and validation batches that go on where the training was left."""
        train, validation = batch_makers(self)
        done = self.current_epoch * self.num_iterations_per_epoch + len(self.epoch.reports)
        return (batch_stream(self, train, stream=TRAIN_STREAM, start=done),
                batch_stream(self, validation, stream=VALIDATION_STREAM,
                             start=self.current_epoch * self.num_val_iterations_per_epoch))

    @property
    def pretrained_file(self) -> Path:
        """Where stage 1 leaves the leader."""
        return Path(self.output_folder) / PRETRAINED

    def run_pretraining(self) -> None:
        """Stage 1 alone (Eq. 9-12), unless it is already there; an interrupted one goes on."""
        if not self.was_initialized:
            self.initialize()
        followed_by = self.num_epochs if self.stop is not None else 0
        with self._undisturbed():
            if self.pretrained_file.is_file():
                self.say(f"pre-training is already there: {self.pretrained_file}")
                if differing := difference_in_stage_1(load_checkpoint(self.pretrained_file), self):
                    log.warning("%s was made with another %s. Delete it to pre-train anew.", self.pretrained_file, differing)
            elif self.recipe.pretraining.epochs:
                Stage1(self).run(followed_by=followed_by)

    @contextlib.contextmanager
    def _undisturbed(self) -> Iterator[None]:
        """Keep other trainings out of the fold's folder, and hold signals back until an iteration is done."""
        if self.stop is not None:  # stage 1 of a whole training
            yield
            return
        own = locked(Path(self.output_folder)) if not self.local_rank else contextlib.nullcontext()
        with own, stop_requests() as self.stop:
            try:
                if not self.local_rank:
                    remove_stale(Path(self.output_folder))
                require_memory_for_batches(self)
                begin_alike(self)
                yield
            finally:
                self.stop = None

    def run_training(self) -> None:
        """Both stages, checkpoints and pictures; stage 1 only if it is not there yet.

        Raises:
            TrainingStoppedError: A signal asked it to stop, or its time was up before its end; everything is saved.
            TrainingRunningError: Another process trains in the same folder.
        """
        if not self.was_initialized:
            self.initialize()
        with self._undisturbed():
            if self.current_epoch == 0 and not self.epoch.reports:
                if self.fine_tuned_from is not None:
                    self.save_mid_epoch()  # from here on, a resume does without the origin
                self.run_pretraining()
                if self.pretrained_file.is_file() and self.recipe.pretraining.epochs:
                    take_up_leader(self, self.pretrained_file, load_checkpoint(self.pretrained_file))
            with compiled(self.network, on=self.acceleration.compile):
                Stage2(self).run(self._random_states)
            if asked := int(largest(self.stop.signal or 0)[0]):
                raise TrainingStoppedError(Signals(asked), Path(self.output_folder) / FINAL)

    def on_train_start(self) -> None:
        """nnU-Net's, with files that appear whole: other folds' models lie beside them."""
        self.dataloader_train, self.dataloader_val = self.get_dataloaders()
        self.watched = WatchedPatch(self) if self.logger.loggers else None
        self.set_deep_supervision_enabled(self.enable_deep_supervision)
        self.print_plans()
        if not self.local_rank:
            self._prepare_folders()
        wait_for_all()

    def _prepare_folders(self) -> None:
        self.dataset_class.unpack_dataset(self.preprocessed_dataset_folder, overwrite_existing=False,
                                          num_processes=max(1, round(get_allowed_n_proc_DA() // 2)), verify=True)
        folder = Path(self.output_folder_base)
        write_json(self.plans_manager.plans, folder / "plans.json")
        write_json(self.dataset_json, folder / "dataset.json")
        with written_whole(folder / FINGERPRINT) as temporary:
            shutil.copyfile(Path(self.preprocessed_dataset_folder_base) / FINGERPRINT, temporary)
        self._save_debug_information()

    def on_train_epoch_start(self) -> None:
        """nnU-Net's, and the rates of leader and discriminators."""
        super().on_train_epoch_start()
        self.leader_schedule.step(self.current_epoch)

    def train_step(self, batch: Batch) -> dict[str, float]:
        """One bi-level step; ``loss`` is the mean of the segmentation losses there are, without labels the fusion loss."""
        if self.fusion_step is not None:
            report = self.fusion_step(batch["data"].to(self.device, non_blocking=True), batch.get("present"))
            return {"loss": report["fusion"], **report}
        target = batch["target"]
        targets = ([part.to(self.device, non_blocking=True) for part in target] if isinstance(target, list)
                   else target.to(self.device, non_blocking=True))
        drawn = (part if part is None else part.to(self.device, non_blocking=True)
                 for part in map(batch.get, ("present", "flips", "viewing")))
        report = self.bilevel_step(batch["data"].to(self.device, non_blocking=True), targets, *drawn)
        return {"loss": (report["upper"] + report.get("lower", report["upper"])) / 2, **report}

    def on_train_epoch_end(self, train_outputs: list[dict[str, float]]) -> None:
        """Log the epoch's mean losses."""
        report = mean_of(train_outputs)
        report["leader_lrs"] = self.levels.leader.optimiser.param_groups[0]["lr"]
        self.logger.log("train_losses", report["loss"], self.current_epoch)
        log_epoch(self.logger, report, self.current_epoch)

    def validation_step(self, batch: Batch) -> dict[str, Any]:
        """nnU-Net's; without labels the fusion loss."""
        if self.fusion_step is None:
            with self.autocast(), network_told(self, batch.get("present")):
                return super().validation_step(batch)
        return {"loss": self.fusion_step.score(batch["data"].to(self.device, non_blocking=True), batch.get("present"))}

    def on_validation_epoch_end(self, val_outputs: list[dict[str, Any]]) -> None:
        """nnU-Net's pseudo Dice; without labels the mean fusion loss."""
        val_outputs = of_whole_batches(val_outputs)
        if self.fusion_step is None:
            super().on_validation_epoch_end(val_outputs)
            return
        loss = float(np.mean([output["loss"] for output in val_outputs]))
        # nnU-Net keeps the checkpoint where the moving mean of this is highest.
        self.logger.log("mean_fg_dice", -loss, self.current_epoch)
        self.logger.log("dice_per_class_or_region", [], self.current_epoch)
        self.logger.log("val_losses", loss, self.current_epoch)

    def on_epoch_end(self) -> None:
        """nnU-Net's, with the best checkpoint before the latest one, and one line that says how it goes.

        A resume from a latest checkpoint which did not know that its epoch was the best would keep a worse one as the best.
        """
        epoch = self.current_epoch
        self.logger.log("epoch_end_timestamps", time.time(), epoch)
        self.epoch.reports.clear()
        if self.watched is not None and self.watched.is_due(epoch):
            log_beside(self.logger, self.watched.look(), epoch)
        ema = self.logger.get_value("ema_fg_dice", step=-1)
        if self._best_ema is None or ema > self._best_ema:
            self._best_ema = ema
            self.save_checkpoint(str(Path(self.output_folder) / BEST))
        super().on_epoch_end()
        self.say(f"epoch {epoch}: {self.logger.local_logger.last_epoch()}")

    def on_train_end(self) -> None:
        """nnU-Net's, and the end of the background processes."""
        super().on_train_end()
        if not self.local_rank:
            previous_of(Path(self.output_folder) / LATEST).unlink(missing_ok=True)
        self.dataloader_train = self.dataloader_val = None

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """nnU-Net's validation of the fold, predicted as f4s_predict predicts; without labels its fusion losses."""
        validate(self, save_probabilities=save_probabilities)

    def save_checkpoint(self, filename: str) -> None:
        """Write everything a resume needs once the current epoch is done, and what nnU-Net needs to predict, as plain data."""
        self._save(Path(filename), epochs_done=self.current_epoch + 1, reports=[])

    def save_mid_epoch(self) -> Path:
        """Write the latest checkpoint in the middle of the current epoch; returns where."""
        path = Path(self.output_folder) / LATEST
        self._save(path, epochs_done=self.current_epoch, reports=self.epoch.reports)
        return path

    def _save(self, path: Path, *, epochs_done: int, reports: list[dict[str, float]]) -> None:
        if self.disable_checkpointing:
            return
        require_finite_weights(self.levels, self.epoch)
        if self.local_rank:
            return
        with self.deadline.saving():
            save_checkpoint(training_state(self, epochs_done=epochs_done, reports=reports), path,
                            keep_previous=path.name == LATEST)

    def load_checkpoint(self, filename_or_checkpoint: dict | str) -> None:
        """Take up a checkpoint of ours, or its predecessor if it is damaged.

        Raises:
            CheckpointNotFoundError, CheckpointError: It is not there, damaged, or of another model.
        """
        if isinstance(filename_or_checkpoint, dict):
            self.take_up(filename_or_checkpoint, Path("checkpoint"))
            return
        previous = previous_of(path := Path(filename_or_checkpoint))
        found, state = load_first_sound([path, previous] if previous.is_file() else [path])
        self.take_up(state, found)

    def take_up(self, state: dict[str, Any], path: Path) -> None:
        """Go on from the content of a checkpoint.

        Args:
            state: The content.
            path: Where it comes from, for messages.

        Raises:
            CheckpointError: It is of another model.
        """
        if "leader_optimizer_state" not in state:
            raise CheckpointError(path, "is no checkpoint of Fuse4Seg. Give one that f4s_train wrote.")
        require_same_plans(state, path, self.plans_manager.plans)
        if not self.was_initialized:
            self.recipe, self.seed = trained_with(state, path)
            self.initialize()
        try:
            take_up_training(self, state)
        except (RuntimeError, KeyError, ValueError) as error:
            raise CheckpointError(path, "does not fit these plans. Use the plans it was trained with.") from error
        self.epoch = Epoch("training", self.current_epoch, state.get("reports", []))
        self._random_states = state.get("random_states")

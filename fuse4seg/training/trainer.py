"""The nnU-Net trainer that pre-trains the leader, then trains leader and follower together."""

from __future__ import annotations

import contextlib
import logging
import pydoc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA

from fuse4seg.datasets.raw import foreground_classes
from fuse4seg.errors import CheckpointError, ForeignPlansError, NonFiniteLossError, OptionError
from fuse4seg.networks.fuse_then_segment import FuseThenSegment
from fuse4seg.nnunet_output import logged_prints
from fuse4seg.progress import progress
from fuse4seg.training.bilevel import BilevelStep
from fuse4seg.training.checkpoint import load_checkpoint, require_same_plans, save_checkpoint, to_plain
from fuse4seg.training.data import Batch, BatchStream, SeededBatches, foreground_share, without_intensity_changes, without_timing
from fuse4seg.training.fusion_step import FusionStep
from fuse4seg.training.fusion_validation import fusion_losses_of_fold
from fuse4seg.training.history import History
from fuse4seg.training.levels import Levels, build_levels
from fuse4seg.training.options import TrainingOptions
from fuse4seg.training.pretraining import PretrainingStep, draw, mean_of
from fuse4seg.training.schedule import polynomial_rate, set_rate
from fuse4seg.training.validation import validate_fold

log = logging.getLogger(__name__)

PRETRAINED = "pretrained.pth"
PRETRAINING_LATEST = "pretraining_latest.pth"
#: Streams of random batches within one training.
TRAIN_STREAM, VALIDATION_STREAM, PRETRAIN_STREAM = range(3)
#: Options that stage 1 depends on.
PRETRAINING_OPTIONS = ("pretrain_epochs", "iterations", "seed", "pretraining", "leader_learning_rate")


class Fuse4SegTrainer(nnUNetTrainer):
    """nnU-Net's trainer around :class:`FuseThenSegment`.

    Both stages run from ``run_training``; stock ``nnUNetv2_train -tr Fuse4SegTrainer`` works with nnUNet_extTrainer set.
    ``options`` may be replaced before ``initialize``.

    Args:
        plans, configuration, fold, dataset_json, device: As nnU-Net gives them.
    """

    def __init__(self, plans: dict, configuration: str, fold: int | str, dataset_json: dict,
                 device: torch.device = torch.device("cuda")) -> None:  # noqa: B008 (nnU-Net's signature)
        with logged_prints():
            super().__init__(plans, configuration, fold, dataset_json, device)
        self.logger.local_logger = History()
        self.options = TrainingOptions() if self.segments else TrainingOptions.without_labels()
        self.save_every = 1  # nnU-Net's 50 would cost a cluster job that is cut short up to 50 epochs
        self.levels: Levels | None = None
        self.bilevel_step: BilevelStep | None = None
        self.fusion_step: FusionStep | None = None

    @property
    def segments(self) -> bool:
        """Whether there is anything to segment. Without labels the fusion losses alone are trained."""
        return bool(foreground_classes(self.dataset_json))

    # ---------------------------------------------------------------- set-up

    def initialize(self) -> None:
        """Build both levels, their optimisers and the discriminators, seeded."""
        if self.is_ddp:
            raise OptionError("-num_gpus", "training on several GPUs is not supported yet. Use one.")
        self.num_epochs = self.options.epochs
        self.num_iterations_per_epoch = self.options.iterations
        self.num_val_iterations_per_epoch = self.options.validation_iterations
        if pydoc.locate(self.configuration_manager.network_arch_class_name) is not FuseThenSegment:
            raise ForeignPlansError(self.plans_manager.plans_name)
        if not self.segments:
            self.options.require_no_task()
        # nnU-Net weighs the coarsest output 0; with two stages it is the only one.
        self.enable_deep_supervision = len(self.configuration_manager.pool_op_kernel_sizes) > 2
        torch.manual_seed(self.options.seed)
        super().initialize()
        self.options.require_fit(self.network.modalities)
        precision = {"scaler": self.grad_scaler, "autocast": self._autocast()}
        if self.segments:
            one_resolution = self.loss.loss if isinstance(self.loss, DeepSupervisionWrapper) else self.loss
            self.bilevel_step = self.levels.bilevel_step(self.loss, self.options.bilevel, loss_at_one_resolution=one_resolution,
                                                         **precision)
        else:
            self.fusion_step = self.levels.fusion_step(self.options.bilevel.losses, **precision)

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, PolyLRScheduler]:
        """nnU-Net's SGD for the follower, Adam for the leader."""
        self.levels = build_levels(self.network, classes=self.label_manager.num_segmentation_heads,
                                   leader_rate=self.options.leader_learning_rate, follower_rate=self.initial_lr,
                                   weight_decay=self.weight_decay)
        follower = self.levels.follower.optimiser
        return follower, PolyLRScheduler(follower, self.initial_lr, self.num_epochs)

    def _autocast(self) -> Callable[[], Any]:
        return partial(torch.autocast, "cuda") if self.device.type == "cuda" else contextlib.nullcontext

    def _do_i_compile(self) -> bool:
        """Never: the two levels call parts of the network, which a compiled whole does not serve."""
        return False

    def plot_network_architecture(self) -> None:
        """Left out: nnU-Net's drawing library no longer works."""

    def print_to_log_file(self, *args: object, also_print_to_console: bool = True, add_timestamp: bool = True) -> None:
        """nnU-Net's messages go to the log file, and to the log at debug level."""
        super().print_to_log_file(*args, also_print_to_console=False, add_timestamp=add_timestamp)
        log.debug(" ".join(map(str, args)))

    def _say(self, message: str) -> None:
        """Log ``message`` where a user sees it, and in the log file."""
        super().print_to_log_file(message, also_print_to_console=False)
        log.info(message)

    # ------------------------------------------------------------------ data

    @staticmethod
    def get_training_transforms(*args: Any, **kwargs: Any) -> Any:
        """nnU-Net's augmentation, made repeatable."""
        return without_timing(nnUNetTrainer.get_training_transforms(*args, **kwargs))

    def get_dataloaders(self) -> tuple[BatchStream, BatchStream]:
        """Seeded streams of training and validation batches that go on where the current epoch starts."""
        train, validation = self._batch_makers()
        return (self._stream(train, TRAIN_STREAM, self.current_epoch * self.num_iterations_per_epoch),
                self._stream(validation, VALIDATION_STREAM, self.current_epoch * self.num_val_iterations_per_epoch))

    def _stream(self, loader: nnUNetDataLoader, stream: int, start: int) -> BatchStream:
        workers = max(1, get_allowed_n_proc_DA())
        training = stream == TRAIN_STREAM
        flip_axes = (self.inference_allowed_mirroring_axes or ()) if training and self.options.bilevel.mirror_fused else ()
        batches = SeededBatches(loader, seed=self.options.seed, stream=stream, modalities=self.network.modalities,
                                modality_dropout=self.options.modality_dropout if training else 0.0,
                                flip_axes=flip_axes if self.segments else ())
        return BatchStream(batches, start=start, workers=workers if stream != VALIDATION_STREAM else max(1, workers // 4),
                           pin_memory=self.device.type == "cuda")

    def _batch_makers(self) -> tuple[nnUNetDataLoader, nnUNetDataLoader]:
        """nnU-Net's data loaders, with its sampling and augmentation."""
        self.dataset_class = self.dataset_class or infer_dataset_class(self.preprocessed_dataset_folder)
        patch, scales = self.configuration_manager.patch_size, self._get_deep_supervision_scales()
        rotation, dummy_2d, initial_patch, mirror_axes = self.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        labels = {"is_cascaded": self.is_cascaded, "foreground_labels": self.label_manager.foreground_labels,
                  "regions": self.label_manager.foreground_regions if self.label_manager.has_regions else None,
                  "ignore_label": self.label_manager.ignore_label}
        augmented = self.get_training_transforms(patch, rotation, scales, mirror_axes, dummy_2d,
                                                 use_mask_for_norm=self.configuration_manager.use_mask_for_norm, **labels)
        if not foreground_classes(self.dataset_json):
            augmented = without_intensity_changes(augmented)
        plain = self.get_validation_transforms(scales, **labels)
        train, validation = self.get_tr_and_val_datasets()
        make = partial(nnUNetDataLoader, final_patch_size=patch, label_manager=self.label_manager,
                       probabilistic_oversampling=self.probabilistic_oversampling)
        share = self.oversample_foreground_percent
        return (make(train, self.batch_size, initial_patch, transforms=augmented,
                     oversample_foreground_percent=foreground_share(self.batch_size, share)),
                make(validation, self.batch_size, patch, transforms=plain, oversample_foreground_percent=share))

    # --------------------------------------------------------------- stage 1

    @property
    def pretrained_file(self) -> Path:
        """Where stage 1 leaves the leader."""
        return Path(self.output_folder) / PRETRAINED

    def run_pretraining(self) -> None:
        """Stage 1 alone (Eq. 9-12), unless it is already there; an interrupted one goes on."""
        if not self.was_initialized:
            self.initialize()
        if self.pretrained_file.is_file():
            self._say(f"pre-training is already there: {self.pretrained_file}")
            if not self._begun_alike(self.pretrained_file):
                log.warning("%s was made with other options than asked for. Delete it to pre-train anew.", self.pretrained_file)
        elif self.options.pretrain_epochs:
            self._pretrain()

    def _pretrain(self) -> None:
        latest = Path(self.output_folder) / PRETRAINING_LATEST
        step = self.levels.pretraining_step(self.options.pretraining, rate=self.options.leader_learning_rate)
        first = self._resume_pretraining(latest, step.optimiser)
        epochs, iterations = self.options.pretrain_epochs, self.options.iterations
        batches = self._stream(self._batch_makers()[0], PRETRAIN_STREAM, first * iterations)
        self.network.train()
        for epoch in range(first, epochs):
            for moved in (step.optimiser, step.discriminator_optimiser):
                set_rate(moved, polynomial_rate(self.options.leader_learning_rate, epoch, epochs=epochs))
            report = self._pretraining_epoch(step, batches, epoch)
            self._say(f"pre-training epoch {epoch}: " + ", ".join(f"{name} {value:.4f}" for name, value in report.items()))
            save_checkpoint(self._pretraining_state(step.optimiser, epoch + 1), latest)
        latest.replace(self.pretrained_file)

    def _pretraining_epoch(self, step: PretrainingStep, batches: BatchStream, epoch: int) -> dict[str, float]:
        reports = []
        doing = f"pre-training {epoch + 1}/{self.options.pretrain_epochs}"
        with progress(range(self.options.iterations), doing, leave=False) as bar:
            for _ in bar:
                batch, data = draw(batches, device=self.device)
                reports.append(step(data))
                self._refuse_non_finite(reports[-1], "pre-training", epoch, batch)
                bar.set_postfix({"loss": f"{reports[-1]['total']:.4f}"}, refresh=False)
        return mean_of(reports)

    def _pretraining_state(self, optimiser: torch.optim.Optimizer, epochs_done: int) -> dict[str, Any]:
        return {"fusion": self.network.fusion.state_dict(), "discriminators": self.levels.discriminators.state_dict(),
                "optimiser": optimiser.state_dict(), "epochs_done": epochs_done, "options": self.options.to_plain(),
                "discriminator_optimiser": self.levels.discriminator_optimiser.state_dict()}

    def _resume_pretraining(self, latest: Path, optimiser: torch.optim.Optimizer) -> int:
        """Take an interrupted stage 1 of the same options up again; returns the epoch to go on with."""
        if not latest.is_file() or not self._begun_alike(latest):
            return 0
        state = self._load_pretrained(latest)
        optimiser.load_state_dict(state["optimiser"])
        self._say(f"pre-training goes on with epoch {state['epochs_done']}")
        return state["epochs_done"]

    def _begun_alike(self, path: Path) -> bool:
        """Whether stage 1's file was made with the options of this training."""
        begun, wanted = load_checkpoint(path).get("options", {}), to_plain(self.options.to_plain())
        return all(begun.get(name) == wanted[name] for name in PRETRAINING_OPTIONS)

    def _load_pretrained(self, path: Path) -> dict[str, Any]:
        state = load_checkpoint(path, device=self.device)
        try:
            self.network.fusion.load_state_dict(state["fusion"])
            self.levels.discriminators.load_state_dict(state["discriminators"])
            self.levels.discriminator_optimiser.load_state_dict(state["discriminator_optimiser"])
        except (RuntimeError, KeyError, ValueError) as error:
            raise CheckpointError(path, "does not fit these plans. Delete it to pre-train anew.") from error
        return state

    # --------------------------------------------------------------- stage 2

    def run_training(self) -> None:
        """Both stages, checkpoints and pictures; stage 1 only if it is not there yet."""
        if not self.was_initialized:
            self.initialize()
        if self.current_epoch == 0:
            self.run_pretraining()
            if self.pretrained_file.is_file() and self.options.pretrain_epochs:
                self._load_pretrained(self.pretrained_file)
        self.on_train_start()
        for epoch in range(self.current_epoch, self.num_epochs):
            self.on_epoch_start()
            self.on_train_epoch_start()
            self.on_train_epoch_end(self._train_epoch(epoch))
            with torch.no_grad():
                self.on_validation_epoch_start()
                self.on_validation_epoch_end([self.validation_step(next(self.dataloader_val))
                                              for _ in range(self.num_val_iterations_per_epoch)])
            self.on_epoch_end()
        self.on_train_end()

    def _train_epoch(self, epoch: int) -> list[dict[str, float]]:
        reports = []
        doing = f"training {epoch + 1}/{self.num_epochs}"
        with progress(range(self.num_iterations_per_epoch), doing, leave=False) as bar:
            for _ in bar:
                batch = next(self.dataloader_train)
                reports.append(self.train_step(batch))
                self._refuse_non_finite(reports[-1], "training", epoch, batch)
                bar.set_postfix({"loss": f"{reports[-1]['loss']:.4f}"}, refresh=False)
        return reports

    def on_train_epoch_start(self) -> None:
        """nnU-Net's, and the rates of leader and discriminators."""
        super().on_train_epoch_start()
        rate = polynomial_rate(self.options.leader_learning_rate, self.current_epoch, epochs=self.num_epochs)
        for optimiser in (self.levels.leader.optimiser, self.levels.discriminator_optimiser):
            set_rate(optimiser, rate)

    def train_step(self, batch: Batch) -> dict[str, float]:
        """One bi-level step; ``loss`` is the mean of both levels' segmentation losses, without labels the fusion loss."""
        if self.fusion_step is not None:
            report = self.fusion_step(batch["data"].to(self.device, non_blocking=True), batch.get("present"))
            return {"loss": report["fusion"], **report}
        target = batch["target"]
        targets = ([part.to(self.device, non_blocking=True) for part in target] if isinstance(target, list)
                   else target.to(self.device, non_blocking=True))
        present, flips = (part if part is None else part.to(self.device, non_blocking=True)
                          for part in (batch.get("present"), batch.get("flips")))
        report = self.bilevel_step(batch["data"].to(self.device, non_blocking=True), targets, present, flips)
        return {"loss": (report["upper"] + report["lower"]) / 2, **report}

    def on_train_epoch_end(self, train_outputs: list[dict[str, float]]) -> None:
        """Log the epoch's mean losses."""
        report = mean_of(train_outputs)
        self.logger.log("train_losses", report["loss"], self.current_epoch)
        report["leader_lrs"] = self.levels.leader.optimiser.param_groups[0]["lr"]
        self.logger.local_logger.log_epoch(report, self.current_epoch)

    def validation_step(self, batch: Batch) -> dict[str, Any]:
        """nnU-Net's; without labels the fusion loss."""
        if self.fusion_step is None:
            return super().validation_step(batch)
        return {"loss": self.fusion_step.score(batch["data"].to(self.device, non_blocking=True))}

    def on_validation_epoch_end(self, val_outputs: list[dict[str, Any]]) -> None:
        """nnU-Net's pseudo Dice; without labels the mean fusion loss."""
        if self.fusion_step is None:
            super().on_validation_epoch_end(val_outputs)
            return
        loss = float(np.mean([output["loss"] for output in val_outputs]))
        # nnU-Net keeps the checkpoint where the moving mean of this is highest.
        self.logger.log("mean_fg_dice", -loss, self.current_epoch)
        self.logger.log("dice_per_class_or_region", [], self.current_epoch)
        self.logger.log("val_losses", loss, self.current_epoch)

    def on_epoch_end(self) -> None:
        """nnU-Net's, and one line that says how it goes."""
        epoch = self.current_epoch
        super().on_epoch_end()
        entries = self.logger.local_logger.my_fantastic_logging
        seconds = entries["epoch_end_timestamps"][-1] - entries["epoch_start_timestamps"][-1]
        dice = ", ".join(f"{value:.3f}" for value in entries["dice_per_class_or_region"][-1])
        shown = [f"{name} {entries[name][-1]:.4f}" for name in ("upper", "lower", "fusion", "ratio")
                 if np.isfinite(entries[name][-1])]
        scored = f"pseudo Dice {dice}" if dice else f"validation fusion {entries['val_losses'][-1]:.4f}"
        self._say(f"epoch {epoch}: {', '.join(shown)}, {scored}, {seconds:.1f} s")

    def on_train_end(self) -> None:
        """nnU-Net's, and the end of the background processes."""
        super().on_train_end()
        self.dataloader_train = self.dataloader_val = None

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """nnU-Net's validation of the fold, through the two passes that prediction makes; without labels its fusion losses."""
        if not self.segments:
            for name, loss in fusion_losses_of_fold(self).items():
                self._say(f"validation {name} loss: {loss:.4f}")
            return
        if self.is_cascaded or self.configuration_manager.next_stage_names:
            # nnU-Net also has to hand this stage's labels to the next one, and does it window by window.
            super().perform_actual_validation(save_probabilities)
            return
        self.set_deep_supervision_enabled(False)
        summary = validate_fold(self, save_probabilities=save_probabilities)
        self.set_deep_supervision_enabled(self.enable_deep_supervision)
        for label, scores in summary["mean"].items():
            self._say(f"validation Dice of {label}: {scores['Dice']:.4f}")
        self._say(f"Mean Validation Dice: {summary['foreground_mean']['Dice']:.4f}")

    def _refuse_non_finite(self, report: dict[str, float], stage: str, epoch: int, batch: Batch) -> None:
        # The ratio may be anything; it does not stop a training.
        if not np.isfinite([value for name, value in report.items() if name != "ratio"]).all():
            raise NonFiniteLossError(stage, epoch, map(str, batch["keys"]))

    # ----------------------------------------------------------- checkpoints

    def save_checkpoint(self, filename: str) -> None:
        """Write everything a resume needs, and what nnU-Net needs to predict, as plain data."""
        if self.disable_checkpointing:
            return
        save_checkpoint({
            "network_weights": self.network.state_dict(),
            "optimizer_state": self.optimizer.state_dict(),
            "leader_optimizer_state": self.levels.leader.optimiser.state_dict(),
            "auxiliary_head": self.levels.auxiliary_head.state_dict(),
            "discriminators": self.levels.discriminators.state_dict(),
            "discriminator_optimizer_state": self.levels.discriminator_optimiser.state_dict(),
            "grad_scaler_state": self.grad_scaler.state_dict() if self.grad_scaler is not None else None,
            "logging": self.logger.get_checkpoint(),
            "_best_ema": self._best_ema,
            "current_epoch": self.current_epoch + 1,
            "init_args": self.my_init_kwargs,
            "trainer_name": type(self).__name__,
            "inference_allowed_mirroring_axes": self.inference_allowed_mirroring_axes,
            "options": self.options.to_plain(),
        }, Path(filename))

    def load_checkpoint(self, filename_or_checkpoint: dict | str) -> None:
        """Take up a checkpoint of ours.

        Raises:
            CheckpointNotFoundError, CheckpointError: It is not there, damaged, or of another model.
        """
        path = Path(filename_or_checkpoint) if not isinstance(filename_or_checkpoint, dict) else Path("checkpoint")
        state = (filename_or_checkpoint if isinstance(filename_or_checkpoint, dict)
                 else load_checkpoint(path, device=self.device))
        if "leader_optimizer_state" not in state:
            raise CheckpointError(path, "is no checkpoint of Fuse4Seg. Give one that f4s_train wrote.")
        require_same_plans(state, path, self.plans_manager.plans)
        if not self.was_initialized:
            self.options = TrainingOptions.from_plain(state["options"])
            self.initialize()
        try:
            self._take_up(state)
        except (RuntimeError, KeyError, ValueError) as error:
            raise CheckpointError(path, "does not fit these plans. Use the plans it was trained with.") from error

    def _take_up(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network_weights"])
        self.optimizer.load_state_dict(state["optimizer_state"])
        self.levels.leader.optimiser.load_state_dict(state["leader_optimizer_state"])
        self.levels.auxiliary_head.load_state_dict(state["auxiliary_head"])
        self.levels.discriminators.load_state_dict(state["discriminators"])
        self.levels.discriminator_optimiser.load_state_dict(state["discriminator_optimizer_state"])
        if self.grad_scaler is not None and state["grad_scaler_state"] is not None:
            self.grad_scaler.load_state_dict(state["grad_scaler_state"])
        self.logger.load_checkpoint(state["logging"])
        self._best_ema, self.current_epoch = state["_best_ema"], state["current_epoch"]
        self.inference_allowed_mirroring_axes = state["inference_allowed_mirroring_axes"]

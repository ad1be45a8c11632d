"""Train stock nnU-Net on stacked channels with the plan of a Fuse4Seg configuration: the peer that our Dice stands beside.

Same patch, batch, sampling of foreground, width, augmentation, optimiser, iterations and splits; only the fusion network is gone.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fuse4seg.files import write_json
from fuse4seg.paths import FINAL, LATEST
from fuse4seg.plans import planned_recipe, read_plans
from fuse4seg.recipes.recipe import Follower

if TYPE_CHECKING:
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    from fuse4seg.training.run import Training

STOCK_PLANS = "StockPlans"
#: A run that was cut short goes on from here.
RESUMABLE = (FINAL, LATEST)
SAVE_EVERY = 5
#: Epochs' entries of nnU-Net's log, kept as plain data beside its checkpoints.
TRAINING_LOG = "training_log.json"
LOGGED = ("epoch_start_timestamps", "epoch_end_timestamps", "mean_fg_dice")


def stock_plans(plans: dict[str, Any]) -> dict[str, Any]:
    """Our plans with every network replaced by its follower alone, which nnU-Net then feeds with all channels."""
    configurations = {name: {**configuration, "architecture": configuration["architecture"]["arch_kwargs"]["follower"]}
                      if "architecture" in configuration else configuration
                      for name, configuration in plans["configurations"].items()}
    return {**plans, "plans_name": STOCK_PLANS, "configurations": configurations}


def make_stock_trainer(plans: dict[str, Any], configuration: str, fold: int | str, dataset_json: dict[str, Any],
                       device: torch.device) -> nnUNetTrainer:
    """nnU-Net's trainer with as much foreground in its batches as ours have.

    Of four samples nnU-Net makes one hold foreground for sure, and we two
    (:func:`~fuse4seg.training.data.foreground_share`), which in short trainings on real cases was worth .05 of Dice.

    Args:
        plans: Of :func:`stock_plans`, and whether to go on (``continue_training``).
        configuration: Such as 2d.
        fold: Number or "all".
        dataset_json: Of the dataset.
        device: Where it trains.
    """
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    from fuse4seg.training.data import foreground_share

    trainer = nnUNetTrainer(plans, configuration, fold, dataset_json, device)
    _train_follower_as_its_recipe_says(trainer, planned_recipe(plans, STOCK_PLANS).follower)
    trainer.oversample_foreground_percent = foreground_share(trainer.configuration_manager.batch_size,
                                                             trainer.oversample_foreground_percent)
    return trainer


def _train_follower_as_its_recipe_says(trainer: nnUNetTrainer, follower: Follower) -> None:
    """Leave deep supervision out where there is none; the optimiser is nnU-Net's unless the follower's is another."""
    from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler

    from fuse4seg.networks.follower import follower_kind
    from fuse4seg.steps.levels import follower_optimiser

    trainer.enable_deep_supervision = follower_kind(follower.network).deep_supervision

    def configure_optimizers() -> tuple[torch.optim.Optimizer, PolyLRScheduler]:
        optimiser = follower_optimiser(list(trainer.network.parameters()), follower)
        return optimiser, PolyLRScheduler(optimiser, follower.rate, trainer.num_epochs)

    trainer.configure_optimizers = configure_optimizers


def train_stock_nnunet(training: Training, *, epochs: int, iterations: int, seed: int, resume: bool) -> None:
    """Train and validate.

    Args:
        training: Which dataset, configuration and fold, by which plans of ours, and where; its trainer is nnU-Net's.
        epochs: How many.
        iterations: Of each; it has a fifth as many validation batches.
        seed: Of the weights; nnU-Net draws batches as it likes.
        resume: Go on with the latest checkpoint, if there is one.
    """
    import torch

    from fuse4seg.machine import choose_device
    from fuse4seg.paths import PREPROCESSED, data_root, dataset_name
    from fuse4seg.training.recipe import validation_iterations

    device = choose_device(training.device)
    folder = data_root(PREPROCESSED) / dataset_name(training.dataset)
    plans = stock_plans(read_plans(folder / f"{training.plans}.json"))
    torch.manual_seed(seed)
    trainer = make_stock_trainer({**plans, "continue_training": resume}, training.configuration, training.fold,
                                 json.loads((folder / "dataset.json").read_text()), device)
    trainer.num_epochs, trainer.num_iterations_per_epoch = epochs, iterations
    trainer.num_val_iterations_per_epoch = validation_iterations(iterations)
    trainer.save_every = SAVE_EVERY
    made = [Path(trainer.output_folder, name) for name in RESUMABLE if Path(trainer.output_folder, name).is_file()]
    if resume and made:
        trainer.load_checkpoint(str(made[0]))
    if not (resume and made and made[0].name == RESUMABLE[0]):
        trainer.run_training()
    logged = trainer.logger.local_logger.my_fantastic_logging
    log = {entry: [float(value) for value in logged[entry]] for entry in LOGGED}
    parameters = sum(weights.numel() for weights in trainer.network.parameters())
    write_json({"parameters": parameters, **log}, Path(trainer.output_folder, TRAINING_LOG))
    trainer.perform_actual_validation()

"""Train stock nnU-Net on stacked channels with the plan of a Fuse4Seg configuration: the peer that our Dice stands beside.

Same patch, batch, sampling of foreground, width, augmentation, optimiser, iterations and splits; only the fusion network is gone.

    python -m fuse4seg.comparison.stock_nnunet 502 2d 0 --epochs 10 --iterations 100
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fuse4seg.cli.command import make_parser, run_command
from fuse4seg.cli.train import fold
from fuse4seg.files import write_json
from fuse4seg.plans import PLANS_NAME, read_plans

if TYPE_CHECKING:
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

STOCK_PLANS = "StockPlans"
#: A run that was cut short goes on from here.
RESUMABLE = ("checkpoint_final.pth", "checkpoint_latest.pth")
SAVE_EVERY = 5
#: Epochs' entries of nnU-Net's log, kept as plain data beside its checkpoints.
TRAINING_LOG = "training_log.json"
LOGGED = ("epoch_start_timestamps", "epoch_end_timestamps", "mean_fg_dice")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the training; returns the exit status."""
    parser = make_parser("Train and validate stock nnU-Net with the plan of a Fuse4Seg configuration.",
                         example="python -m fuse4seg.comparison.stock_nnunet 502 2d 0 --epochs 10 --iterations 100")
    parser.add_argument("dataset")
    parser.add_argument("configuration")
    parser.add_argument("fold", type=fold)
    parser.add_argument("-p", dest="plans", default=PLANS_NAME)
    parser.add_argument("-device", choices=("cuda", "cpu", "mps"))
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="of the weights; nnU-Net draws batches as it likes")
    parser.add_argument("--c", action="store_true", help="go on with the latest checkpoint")
    return run_command(_run, parser, arguments)


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
    trainer.oversample_foreground_percent = foreground_share(trainer.configuration_manager.batch_size,
                                                             trainer.oversample_foreground_percent)
    return trainer


def _run(options: argparse.Namespace) -> None:
    import torch

    from fuse4seg.paths import PREPROCESSED, data_root, dataset_name
    from fuse4seg.training.options import TrainingOptions
    from fuse4seg.training.run import choose_device

    device = choose_device(options.device)
    folder = data_root(PREPROCESSED) / dataset_name(options.dataset)
    plans = stock_plans(read_plans(folder / f"{options.plans}.json"))
    torch.manual_seed(options.seed)
    trainer = make_stock_trainer({**plans, "continue_training": options.c}, options.configuration, options.fold,
                                 json.loads((folder / "dataset.json").read_text()), device)
    trainer.num_epochs, trainer.num_iterations_per_epoch = options.epochs, options.iterations
    trainer.num_val_iterations_per_epoch = TrainingOptions(iterations=options.iterations).validation_iterations
    trainer.save_every = SAVE_EVERY
    made = [Path(trainer.output_folder, name) for name in RESUMABLE if Path(trainer.output_folder, name).is_file()]
    if options.c and made:
        trainer.load_checkpoint(str(made[0]))
    if not (options.c and made and made[0].name == RESUMABLE[0]):
        trainer.run_training()
    logged = trainer.logger.local_logger.my_fantastic_logging
    log = {entry: [float(value) for value in logged[entry]] for entry in LOGGED}
    parameters = sum(weights.numel() for weights in trainer.network.parameters())
    write_json({"parameters": parameters, **log}, Path(trainer.output_folder, TRAINING_LOG))
    trainer.perform_actual_validation()


if __name__ == "__main__":
    sys.exit(main())

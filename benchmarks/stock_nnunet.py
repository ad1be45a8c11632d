"""Train stock nnU-Net on stacked channels with the plan of a Fuse4Seg configuration: the peer that our Dice stands beside.

Same patch, batch, width, augmentation, optimiser, iterations and splits; only the fusion network is gone.

    python benchmarks/stock_nnunet.py --root DATA 502 2d 0 --epochs 10 --iterations 100
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from fuse4seg.cli.command import make_parser, run_command
from fuse4seg.cli.train import fold

STOCK_PLANS = "StockPlans"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    parser = make_parser("Train and validate stock nnU-Net with the plan of a Fuse4Seg configuration.",
                         example="python benchmarks/stock_nnunet.py 502 2d 0 --epochs 10 --iterations 100")
    parser.add_argument("dataset")
    parser.add_argument("configuration")
    parser.add_argument("fold", type=fold)
    parser.add_argument("-p", dest="plans", default="Fuse4SegPlans")
    parser.add_argument("-device", choices=("cuda", "cpu", "mps"))
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--val", action="store_true", help="only validate a finished training")
    return run_command(_run, parser, arguments)


def stock_plans(plans: dict) -> dict:
    """Our plans with every network replaced by its follower alone, which nnU-Net then feeds with all channels."""
    configurations = {name: {**configuration, "architecture": configuration["architecture"]["arch_kwargs"]["follower"]}
                      if "architecture" in configuration else configuration
                      for name, configuration in plans["configurations"].items()}
    return {**plans, "plans_name": STOCK_PLANS, "configurations": configurations}


def _run(options: argparse.Namespace) -> None:
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    from fuse4seg.paths import PREPROCESSED, data_root, dataset_name
    from fuse4seg.training.options import TrainingOptions
    from fuse4seg.training.run import choose_device

    device = choose_device(options.device)
    folder = data_root(PREPROCESSED) / dataset_name(options.dataset)
    plans = stock_plans(json.loads((folder / f"{options.plans}.json").read_text()))
    trainer = nnUNetTrainer({**plans, "continue_training": False}, options.configuration, options.fold,
                            json.loads((folder / "dataset.json").read_text()), device)
    trainer.num_epochs, trainer.num_iterations_per_epoch = options.epochs, options.iterations
    trainer.num_val_iterations_per_epoch = TrainingOptions(iterations=options.iterations).validation_iterations
    if options.val:
        trainer.load_checkpoint(f"{trainer.output_folder}/checkpoint_final.pth")
    else:
        trainer.run_training()
    trainer.perform_actual_validation()


if __name__ == "__main__":
    sys.exit(main())

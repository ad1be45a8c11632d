"""Train stock nnU-Net with the plan of a Fuse4Seg configuration; f4s_compare runs this module for its rows of stock nnU-Net."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from fuse4seg.cli.command import make_parser, run_command
from fuse4seg.cli.train import fold
from fuse4seg.plans import PLANS_NAME


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the training; returns the exit status."""
    parser = make_parser("Train and validate stock nnU-Net with the plan of a Fuse4Seg configuration.",
                         example="python -m fuse4seg.cli.train_stock_nnunet 502 2d 0 --epochs 10 --iterations 100")
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


def _run(options: argparse.Namespace) -> None:
    from fuse4seg.comparison.stock_nnunet import train_stock_nnunet
    from fuse4seg.training.run import Training

    training = Training(options.dataset, options.configuration, options.fold, plans=options.plans, device=options.device)
    train_stock_nnunet(training, epochs=options.epochs, iterations=options.iterations, seed=options.seed, resume=options.c)


if __name__ == "__main__":
    sys.exit(main())

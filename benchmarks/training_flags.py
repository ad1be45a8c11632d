"""Flags of benchmarks that train: which configuration, by which plans, and for how long."""

from __future__ import annotations

import argparse


def add_training_flags(parser: argparse.ArgumentParser, *, dataset: str) -> None:
    """What is trained, and how long; ``dataset`` says what the dataset has to be."""
    parser.add_argument("dataset", help=dataset)
    parser.add_argument("configuration")
    parser.add_argument("-p", dest="plans", default="Fuse4SegPlans")
    parser.add_argument("-device", choices=("cuda", "cpu", "mps"))
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--pretrain_epochs", type=int, default=2)
    parser.add_argument("--iterations", type=int, default=50)


def budget(options: argparse.Namespace) -> tuple[str, ...]:
    """How long, as changes of the recipe."""
    return (f"training.epochs={options.epochs}", f"training.iterations={options.iterations}",
            f"pretraining.epochs={options.pretrain_epochs}")

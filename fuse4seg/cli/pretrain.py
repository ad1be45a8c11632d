"""f4s_pretrain: stage 1 alone."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from functools import partial

from fuse4seg.cli.command import make_parser, run_command
from fuse4seg.cli.train import add_training_arguments, conduct_of, run_ranks, training_of


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = make_parser("Pre-train the fusion network; f4s_train, given the same, then goes on from there.",
                         example="f4s_pretrain 501 2d 0 --set pretraining.epochs=80")
    add_training_arguments(parser)
    return run_command(partial(run_ranks, _run, "pretrain", arguments), parser, arguments)


def _run(options: argparse.Namespace) -> None:
    from fuse4seg.training.run import pretrain

    written = pretrain(training_of(options), seed=options.seed, conduct=conduct_of(options))
    logging.getLogger(__name__).info("pre-trained: %s", written)

"""f4s_pretrain: stage 1 alone."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence

from fuse4seg.cli.command import make_parser, run_command
from fuse4seg.cli.train import PRETRAINING_CHOICES, add_training_arguments, save_every


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = make_parser("Pre-train the fusion network; f4s_train then goes on from there.",
                         example="f4s_pretrain 501 2d 0")
    add_training_arguments(parser)
    return run_command(_run, parser, arguments)


def _run(options: argparse.Namespace) -> None:
    often = save_every(options)
    from fuse4seg.training.run import Training, pretrain

    chosen = {name: getattr(options, name) for name in PRETRAINING_CHOICES}
    written = pretrain(Training(options.dataset, options.configuration, options.fold, options.plans, options.trainer,
                                options.device), chosen=chosen, save_every=often)
    logging.getLogger(__name__).info("pre-trained: %s", written)

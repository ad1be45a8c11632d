"""f4s_train: pre-training, cooperative training and validation of one fold."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fuse4seg.cli.command import make_parser, run_command

if TYPE_CHECKING:
    from fuse4seg.training.saving import SaveEvery

#: Flags that become training options.
PRETRAINING_CHOICES = ("pretrain_epochs", "iterations", "seed", "leader_learning_rate", "pretraining_losses")
CHOICES = (*PRETRAINING_CHOICES, "epochs", "hypergradient", "fusion_weight", "fusion_losses",
           "auxiliary_weight", "viewing", "modality_dropout")


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """Which training is meant, and the options that both stages share."""
    parser.add_argument("dataset", help="dataset id or name")
    parser.add_argument("configuration", help="configuration: 2d, 3d_fullres, 3d_lowres")
    parser.add_argument("fold", type=fold, help="fold: 0, 1, ... or all")
    parser.add_argument("-p", dest="plans", default="Fuse4SegPlans", help="plans (default: %(default)s)")
    parser.add_argument("-tr", dest="trainer", default="Fuse4SegTrainer", help="trainer (default: %(default)s)")
    parser.add_argument("-device", choices=("cuda", "cpu", "mps"), help="default: a GPU where there is one")
    parser.add_argument("--pretrain_epochs", type=int,
                        help="epochs of pre-training, 0: none (default: those of what f4s_pretrain left in the fold's folder; "
                             "else 80 for f4s_pretrain and without labels, 0 for f4s_train with labels)")
    parser.add_argument("--iterations", type=int, help="iterations per epoch (default: 250)")
    parser.add_argument("--seed", type=int, help="of weights, sampling and augmentation (default: 0)")
    parser.add_argument("--leader_learning_rate", type=float, metavar="RATE",
                        help="first rate of the fusion network's Adam, in both stages (default: 0.002; 0: stays as it starts)")
    parser.add_argument("--pretraining_losses", nargs="+", metavar="LOSS",
                        help="what pre-training adds to the content loss (default: adversarial decomposition), or none")
    parser.add_argument("--save_every", nargs="+", metavar="N",
                        help="save after so many epochs (5), after so many minutes (30min), or both (default: 1 30min)")


def fold(text: str) -> int | str:
    """A fold's number, or "all"."""
    if text != "all" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is neither a number nor all")
    return text if text == "all" else int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = make_parser("Train the fusion network and the segmentation network together.",
                         example="f4s_train 501 2d 0")
    add_training_arguments(parser)
    parser.add_argument("--epochs", type=int, help="epochs of cooperative training (default: 140)")
    parser.add_argument("--hypergradient", help="gauss_newton (default), joint, or none: the "
                                                "fusion losses alone teach the fusion network")
    parser.add_argument("--fusion_weight", type=float, help="lambda, the fusion losses' part in the leader's objective "
                                                            "(default: 0.3); more of it: closer to the sources")
    parser.add_argument("--fusion_losses", nargs="+", metavar="LOSS",
                        help="parts of the fusion loss, each as NAME or NAME=WEIGHT (default: edges balance scd; "
                             "without labels: decomposition edges ssim vif scd; the paper's: "
                             "intensity texture decomposition adversarial), or none")
    parser.add_argument("--auxiliary_head", type=float, dest="auxiliary_weight", metavar="WEIGHT",
                        help="part of a segmentation head on the leader's features, for training only (default: 0.5; 0: none)")
    parser.add_argument("--viewing", nargs="+", metavar="CHANGE",
                        help="changes of the fused image under which the segmentation network learns to read it (default: "
                             "blur gamma window noise), or none")
    parser.add_argument("--modality_dropout", type=float, metavar="P",
                        help="probability that a sample goes without a modality in cooperative training, for models that "
                             "predict cases which lack some (default: 0)")
    stage = parser.add_mutually_exclusive_group()
    stage.add_argument("--c", action="store_true", help="go on where the training was left, in whichever stage")
    stage.add_argument("--val", action="store_true", help="only validate a finished training")
    return run_command(_run, parser, arguments)


def save_every(options: argparse.Namespace) -> SaveEvery | None:
    """What --save_every says, None without it."""
    from fuse4seg.training.saving import SaveEvery

    return SaveEvery.from_words(options.save_every) if options.save_every else None


def _run(options: argparse.Namespace) -> None:
    often = save_every(options)
    from fuse4seg.training.run import Training, train

    chosen = {name: getattr(options, name) for name in CHOICES}
    train(Training(options.dataset, options.configuration, options.fold, options.plans, options.trainer, options.device),
          chosen=chosen, resume=options.c, validate_only=options.val, save_every=often)

"""f4s_train: pre-training, cooperative training and validation of one fold."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fuse4seg.cli.command import make_parser, require_at_least, run_command
from fuse4seg.cli.farm_flags import add_devices_flag
from fuse4seg.cli.plan_experiment import add_set_flag
from fuse4seg.cli.train_folds import run_folds
from fuse4seg.errors import OptionError
from fuse4seg.launch import launch, stands_in_group
from fuse4seg.plans import PLANS_NAME
from fuse4seg.side_by_side import own_command

if TYPE_CHECKING:
    from fuse4seg.training.acceleration import Acceleration
    from fuse4seg.training.run import Conduct, Training


def add_training_arguments(parser: argparse.ArgumentParser, *, folds: str | None = None) -> None:
    """Which training is meant, and the options that both stages share; ``folds`` is "+" where there may be several."""
    parser.add_argument("dataset", help="dataset id or name")
    parser.add_argument("configuration", help="2d, 3d_fullres, 3d_lowres, ...")
    parser.add_argument("fold", type=fold, nargs=folds, help="0, 1, ... or all")
    parser.add_argument("-p", dest="plans", default=PLANS_NAME, help="plans (default: %(default)s)")
    parser.add_argument("-tr", dest="trainer", default="Fuse4SegTrainer", help="trainer (default: %(default)s)")
    parser.add_argument("-device", choices=("cuda", "cpu", "mps"), help="default: a GPU where there is one")
    parser.add_argument("--seed", type=int, help="of weights, sampling and augmentation (default: 0)")
    add_set_flag(parser, example="training.epochs=50 losses.edges=4; the trainer's folder is named after them")
    parser.add_argument("-num_gpus", type=int, default=1, metavar="N",
                        help="GPUs here that share each batch; with -device cpu, processes (default: 1)")
    parser.add_argument("--save_every", nargs="+", metavar="N",
                        help="save after N epochs (5), minutes (30min), or both (default: 1 30min)")
    parser.add_argument("--max_time", metavar="TIME",
                        help="end in this time (11h, 90min, 1h30min), saved, with fewer epochs; the validation comes on top")
    parser.add_argument("--tensorboard", action="store_true",
                        help="write curves and pictures for TensorBoard (pip install 'fuse4seg[tensorboard]')")


def fold(text: str) -> int | str:
    """A fold's number, or "all"."""
    if text != "all" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is neither a number nor all")
    return text if text == "all" else int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = make_parser("Train the fusion network and the segmentation network together.",
                         example="f4s_train 501 2d 0")
    add_training_arguments(parser, folds="+")
    add_devices_flag(parser, what="one fold at a time on each")
    parser.add_argument("--precision", default="auto",
                        help="of stage 2: float32, float16, bfloat16, or auto: float16 on a GPU, else float32 (default: "
                             "%(default)s)")
    parser.add_argument("--compile", action="store_true",
                        help="torch.compile both networks, in the first epoch of stage 2; nnUNet_compile=1 does the same")
    parser.add_argument("--patience", type=int, metavar="N",
                        help="end when the moving average of the pseudo Dice (without labels: of the fusion loss) is no "
                             "better for N epochs (default: never)")
    parser.add_argument("-pretrained_weights", type=Path, metavar="MODEL",
                        help="begin with what fits of a trained model, .pth or a folder, of Fuse4Seg or stock nnU-Net")
    stage = parser.add_mutually_exclusive_group()
    stage.add_argument("--c", action="store_true", help="go on where the training was left, in either stage")
    stage.add_argument("--val", action="store_true", help="only validate a finished training")
    parser.add_argument("--npz", action="store_true",
                        help="also write the validation cases' probabilities, for f4s_find_best_configuration; later: --val "
                             "--npz")
    one_fold = partial(run_ranks, _run, "train", arguments)
    return run_command(partial(_run_folds, one_fold, parser), parser, arguments)


def _run_folds(one_fold: Callable[[argparse.Namespace], None], parser: argparse.ArgumentParser,
               options: argparse.Namespace) -> None:
    if options.pretrained_weights is not None:
        from fuse4seg.training.origin import require_beginning

        require_beginning(resume=options.c, validate_only=options.val)
    run_folds(one_fold, parser, options)


def run_ranks(run: Callable[[argparse.Namespace], None], command: str, arguments: Sequence[str] | None,
              options: argparse.Namespace) -> None:
    """Run a command that trains, here or in as many processes as -num_gpus asks for.

    Args:
        run: Does the work in this process.
        command: Name of its module.
        arguments: Words after the command's name; None for those of this process.
        options: What was parsed of them.

    Raises:
        OptionError: torchrun has started another number of processes, or so many cannot share a batch.
    """
    require_at_least(1, options.num_gpus, flag="-num_gpus")
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if stands_in_group() and options.num_gpus not in (1, here):
        raise OptionError("-num_gpus", f"{options.num_gpus} is not the {here} that torchrun starts here. Leave it out.")
    if options.num_gpus == 1 or stands_in_group():
        run(options)
        return
    from fuse4seg.training.distributed import require_shares
    from fuse4seg.training.planned import planned_training

    planned = planned_training(training_of(options))
    require_shares(planned.recipe, planned.configuration.batch_size, ranks=options.num_gpus)
    words = sys.argv[1:] if arguments is None else arguments
    launch(own_command(command, *words), options.num_gpus)


def training_of(options: argparse.Namespace) -> Training:
    """Which training the arguments of :func:`add_training_arguments` mean."""
    from fuse4seg.training.run import Training

    return Training(options.dataset, options.configuration, options.fold, options.plans, options.trainer, options.device,
                    tuple(options.changes))


def conduct_of(options: argparse.Namespace, *, patience: int | None = None, acceleration: Acceleration | None = None) -> Conduct:
    """How the arguments of :func:`add_training_arguments` want it run.

    Raises:
        OptionError: One is out of range.
    """
    from fuse4seg.training.limits import Limits
    from fuse4seg.training.run import Conduct
    from fuse4seg.training.saving import SaveEvery

    return Conduct(SaveEvery.from_words(options.save_every) if options.save_every else None,
                   Limits.from_options(patience=patience, max_time=options.max_time), options.tensorboard, acceleration)


def _run(options: argparse.Namespace) -> None:
    from fuse4seg.training.acceleration import Acceleration
    from fuse4seg.training.run import train

    acceleration = Acceleration(options.compile or Acceleration.of_environment().compile, options.precision)
    train(training_of(options), seed=options.seed, resume=options.c, validate_only=options.val,
          conduct=conduct_of(options, patience=options.patience, acceleration=acceleration), save_probabilities=options.npz,
          pretrained_weights=options.pretrained_weights)

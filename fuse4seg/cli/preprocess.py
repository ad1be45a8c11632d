"""f4s_preprocess: crop, normalise and resample the training cases of a planned dataset."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from fuse4seg.cli.command import make_parser, run_command
from fuse4seg.cli.extract_fingerprint import add_dataset_flags, add_process_flags, processes_of
from fuse4seg.cli.farm_flags import add_scheduler_flag, farm_of

if TYPE_CHECKING:
    from fuse4seg.farm.farm import Farm


def add_configuration_flags(parser: argparse.ArgumentParser) -> None:
    """-c, as the commands that preprocess have it."""
    parser.add_argument("-c", nargs="+", metavar="CONFIGURATION",
                        help="what to preprocess (default: the planned ones of 2d, 3d_fullres, 3d_lowres)")


def preprocess_datasets(options: argparse.Namespace) -> None:
    """Preprocess every dataset."""
    processes = processes_of(options)
    from fuse4seg.paths import PREPROCESSED, RAW, data_root, dataset_name
    from fuse4seg.planning.preprocess import preprocess

    for dataset in options.d:
        farm: AbstractContextManager[Farm | None] = nullcontext()
        if getattr(options, "scheduler", None) is not None:
            name = dataset_name(dataset, variables=(RAW,))
            farm = farm_of(options, reads=[data_root(RAW) / name], writes=data_root(PREPROCESSED) / name, device="")
        with farm as workers:
            preprocess(dataset, plans_name=options.plans_name, configurations=options.c, processes=processes, farm=workers,
                       allow_missing=options.allow_missing)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and give its exit status."""
    parser = make_parser("Preprocess a planned dataset.", example="f4s_preprocess -d 501 -c 2d")
    add_dataset_flags(parser)
    parser.add_argument("-plans_name", "-p", default="Fuse4SegPlans", metavar="NAME", help="plans (default: Fuse4SegPlans)")
    add_configuration_flags(parser)
    add_process_flags(parser)
    add_scheduler_flag(parser)
    return run_command(preprocess_datasets, parser, arguments)

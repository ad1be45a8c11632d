"""f4s_find_best_configuration: the configuration or ensemble to predict with, and its post-processing."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from fuse4seg.cli.command import make_parser, require_at_least, run_command
from fuse4seg.cli.extract_fingerprint import add_process_flags, processes_of


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = make_parser("Compare trained configurations and ensembles of two by cross-validation, choose one, and learn its "
                         "post-processing.", example="f4s_find_best_configuration 501")
    parser.add_argument("dataset", help="dataset id or name")
    parser.add_argument("-c", dest="configurations", nargs="+", metavar="CONFIGURATION", help="default: all trained ones")
    parser.add_argument("-p", dest="plans", nargs="+", metavar="PLANS", help="default: all trained ones")
    parser.add_argument("-tr", dest="trainers", nargs="+", metavar="TRAINER", help="default: all trained ones")
    parser.add_argument("-f", dest="folds", nargs="+", type=int, metavar="FOLD", help="default: all trained ones")
    parser.add_argument("--disable_ensembling", action="store_true", help="leave out ensembles, which need f4s_train --npz")
    add_process_flags(parser)
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: %(default)s)")
    return run_command(_run, parser, arguments)


def _run(options: argparse.Namespace) -> None:
    from fuse4seg.errors import FaultyCasesError
    from fuse4seg.selection.find_best import find_best
    from fuse4seg.selection.validated import chosen_models

    require_at_least(0, options.seed, flag="--seed")
    models = chosen_models(options.dataset, configurations=options.configurations, plans=options.plans,
                           trainers=options.trainers)
    choice = find_best(models, folds=options.folds, ensembles=not options.disable_ensembling, processes=processes_of(options),
                       seed=options.seed)
    print(choice.format())
    if choice.faults:
        raise FaultyCasesError(choice.faults)

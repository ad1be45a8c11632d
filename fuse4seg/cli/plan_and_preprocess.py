"""f4s_plan_and_preprocess: from a raw dataset to data that can be trained on."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from fuse4seg.cli.command import make_parser, run_command
from fuse4seg.cli.extract_fingerprint import (
    add_dataset_flags,
    add_fingerprint_flags,
    add_process_flags,
    extract,
    processes_of,
)
from fuse4seg.cli.plan_experiment import add_plan_flags, plan, plan_options
from fuse4seg.cli.preprocess import add_configuration_flags, preprocess_datasets


def plan_and_preprocess(options: argparse.Namespace) -> None:
    """Check, fingerprint, plan and preprocess every dataset; options are refused before the first case is read."""
    from fuse4seg.planning.planner import recipe_of

    processes_of(options)
    chosen = plan_options(options)
    for dataset in options.d:
        recipe_of(dataset, chosen)
    extract(options)
    plan(options)
    if not options.no_pp:
        options.plans_name = chosen.name
        preprocess_datasets(options)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and give its exit status."""
    parser = make_parser("Check, fingerprint, plan and preprocess a raw dataset.",
                         example="f4s_plan_and_preprocess -d 501 -c 2d")
    add_dataset_flags(parser)
    add_fingerprint_flags(parser)
    add_plan_flags(parser)
    add_configuration_flags(parser)
    parser.add_argument("--no_pp", action="store_true", help="stop after planning")
    add_process_flags(parser)
    return run_command(plan_and_preprocess, parser, arguments)

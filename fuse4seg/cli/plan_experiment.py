"""f4s_plan_experiment: decide on patch, batch and networks from a dataset's fingerprint."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fuse4seg.cli.command import make_parser, run_command
from fuse4seg.cli.extract_fingerprint import add_dataset_flags
from fuse4seg.errors import OptionError
from fuse4seg.recipes.reading import recipe_names
from fuse4seg.recipes.recipe import WITH_LABELS, WITHOUT_LABELS

if TYPE_CHECKING:
    from fuse4seg.planning.options import PlanOptions


def add_plan_flags(parser: argparse.ArgumentParser) -> None:
    """What the user may decide about the plans."""
    parser.add_argument("--recipe", metavar="NAME|FILE",
                        help=f"the method: {', '.join(recipe_names())}, or a file NAME.toml (default: {WITH_LABELS}; without "
                             f"labels {WITHOUT_LABELS})")
    add_set_flag(parser, example="follower.features=16 patches.largest_batch=8")
    parser.add_argument("-gpu_memory_target", type=memory_target, metavar="GB",
                        help="memory to fill in training, or auto: the visible GPU's less a reserve, else 8 (resenc_l 24, "
                             "resenc_xl 40; default: auto)")
    parser.add_argument("-num_gpus", type=int, default=1, metavar="N",
                        help="GPUs that share each batch, each of this memory (default: 1)")
    parser.add_argument("-overwrite_target_spacing", type=float, nargs=3, metavar="MM",
                        help="spacing along the three axes (default: the median)")
    parser.add_argument("-overwrite_plans_name", "-p", metavar="NAME",
                        help="of the plans (default: Fuse4SegPlans, the recipe's name, and what was changed)")


def add_set_flag(parser: argparse.ArgumentParser, *, example: str) -> None:
    """--set, as the commands have it that follow a recipe."""
    parser.add_argument("--set", dest="changes", nargs="+", action="extend", default=[], metavar="SECTION.ENTRY=VALUE",
                        help=f"change the recipe, as {example}")


def memory_target(text: str) -> float | None:
    """Gigabytes; None for ``auto``."""
    return None if text == "auto" else float(text)


def plan_options(options: argparse.Namespace) -> PlanOptions:
    """The flags of :func:`add_plan_flags`.

    Raises:
        OptionError, RecipeError: One is out of range.
    """
    from fuse4seg.planning.options import PlanOptions

    return PlanOptions(options.recipe, tuple(options.changes), options.gpu_memory_target, options.overwrite_plans_name,
                       options.overwrite_target_spacing, options.num_gpus, options.allow_missing)


def plan(options: argparse.Namespace) -> None:
    """Plan every dataset."""
    from fuse4seg.planning.planner import plan_experiment

    chosen = plan_options(options)
    for dataset in options.d:
        plan_experiment(dataset, chosen)


def show_table(options: argparse.Namespace) -> None:
    """Print what every dataset would be planned as for GPUs of all sizes."""
    from fuse4seg.evaluation.table import format_table
    from fuse4seg.planning.memory_table import HEADINGS, memory_table

    if options.gpu_memory_target is not None:
        raise OptionError("-gpu_memory_target", "--table shows all sizes. Leave one of the two out.")
    chosen = plan_options(options)
    for dataset in options.d:
        print(format_table(HEADINGS, memory_table(dataset, chosen)))


def plan_or_show(options: argparse.Namespace) -> None:
    """Write plans or, with ``--table``, show what they would be."""
    show_table(options) if options.table else plan(options)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and give its exit status."""
    parser = make_parser("Plan the training of a fingerprinted dataset.",
                         example="f4s_plan_experiment -d 501 -gpu_memory_target 4 --set follower.features=16")
    add_dataset_flags(parser)
    add_plan_flags(parser)
    parser.add_argument("--table", action="store_true",
                        help="write nothing; print patch, batch and predicted memory for 4 to 141 GB")
    return run_command(plan_or_show, parser, arguments)

"""f4s_plan_experiment: decide on patch, batch and networks from a dataset's fingerprint."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fuse4seg.cli.command import make_parser, run_command
from fuse4seg.cli.extract_fingerprint import add_dataset_flags
from fuse4seg.errors import OptionError

if TYPE_CHECKING:
    from fuse4seg.planning.options import PlanOptions


def add_plan_flags(parser: argparse.ArgumentParser) -> None:
    """What the user may decide about the plans."""
    parser.add_argument("--follower", default="unet", metavar="NETWORK",
                        help="segmentation network: unet (default), resenc_m, resenc_l, resenc_xl, or cnn_transformer")
    parser.add_argument("-gpu_memory_target", type=memory_target, metavar="GB",
                        help="memory that training should fill, or auto: that of the visible GPU less a reserve, without one "
                             "8 (24 for resenc_l, 40 for resenc_xl; default: auto)")
    parser.add_argument("--hypergradient", default="gauss_newton", metavar="ESTIMATOR",
                        help="what f4s_train will be given as --hypergradient, which decides on the memory (default: "
                             "%(default)s)")
    parser.add_argument("--max_batch_size", type=int, metavar="N",
                        help="largest batch, at least 2 (default: what memory allows)")
    parser.add_argument("--base_features", type=int, default=32, metavar="N",
                        help="features of the follower's first stage, at least 4 (default: 32)")
    parser.add_argument("-overwrite_target_spacing", type=float, nargs=3, metavar="MM",
                        help="spacing along the image's three axes (default: the median)")
    parser.add_argument("--reference", metavar="MODALITY",
                        help="modality that asks the others, with --cross_attention (default: what dataset.json names as "
                             "reference_modality, else the first)")
    parser.add_argument("--fused_image", metavar="KIND",
                        help="colour: three channels, or grey: one, as in the paper (default: colour where there are labels and "
                             "several modalities)")
    attends = parser.add_mutually_exclusive_group()
    attends.add_argument("--cross_attention", action="store_true", default=None,
                         help="let one modality ask the others, whose attention maps f4s_predict then can write (default: "
                              "without labels alone)")
    attends.add_argument("--no_cross_attention", action="store_false", dest="cross_attention",
                         help="leave the cross-attention out")
    parser.add_argument("-overwrite_plans_name", "-p", default="Fuse4SegPlans", metavar="NAME",
                        help="name of the plans (default: Fuse4SegPlans)")


def memory_target(text: str) -> float | None:
    """Gigabytes; None for ``auto``."""
    return None if text == "auto" else float(text)


def plan_options(options: argparse.Namespace) -> PlanOptions:
    """The flags of :func:`add_plan_flags`.

    Raises:
        OptionError: One is out of range.
    """
    from fuse4seg.planning.options import PlanOptions

    return PlanOptions(gpu_memory_target=options.gpu_memory_target, max_batch_size=options.max_batch_size,
                       base_features=options.base_features, plans_name=options.overwrite_plans_name,
                       overwrite_target_spacing=options.overwrite_target_spacing, reference=options.reference,
                       follower=options.follower, fused_image=options.fused_image,
                       cross_attention=options.cross_attention, hypergradient=options.hypergradient)


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
                         example="f4s_plan_experiment -d 501 -gpu_memory_target 4 --base_features 16")
    add_dataset_flags(parser)
    add_plan_flags(parser)
    parser.add_argument("--table", action="store_true",
                        help="write nothing; print patch, batch and predicted memory for 4, 8, 11, 16, 24, 40, 80 and 141 GB")
    return run_command(plan_or_show, parser, arguments)

"""f4s_evaluate_fusion: fusion metrics of a folder of fused images, beside the trivial rows."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fuse4seg.cli.command import add_overwrite_flag, claim_results, make_parser, run_command
from fuse4seg.cli.extract_fingerprint import add_process_flags, processes_of
from fuse4seg.evaluation.published import format_published, published_sets

if TYPE_CHECKING:
    from fuse4seg.datasets.grey_images import GreyRange


def main(arguments: Sequence[str] | None = None) -> int:
    """Write JSON and CSV, and print a table; see ``f4s_evaluate_fusion --help``."""
    parser = make_parser("EN, SD, SF, MI, SCD, VIF, Qabf and SSIM of fused images, beside the sources', their average's and "
                         "their maximum's; with labels also visibility.",
                         example="f4s_evaluate_fusion -i CT MRI -f fused -o fused.json")
    add_source_flags(parser)
    parser.add_argument("-f", dest="fused", type=Path, required=True, help="fused images, PNG, BMP or NIfTI")
    parser.add_argument("--cases", type=Path, metavar="FILE",
                        help="score these alone: a text file, a name a line, or a JSON list")
    parser.add_argument("--published", metavar="SET", choices=published_sets(),
                        help=f"print others' rows and conventions under yours: {', '.join(published_sets())}")
    parser.add_argument("--labels", type=Path, metavar="FOLDER", help="labels with the cases' names, for visibility")
    parser.add_argument("-o", dest="output", type=Path, required=True, metavar="RESULT.json", help="result; a CSV beside it")
    parser.add_argument("--normalise", action="store_true", help="stretch each fused image to 0..255 first")
    parser.add_argument("--mi_unit", choices=("nats", "bits"), default="nats", help="unit of MI (default: %(default)s)")
    parser.add_argument("--ssim_range", type=float, default=255.0, help="data range of SSIM (default: %(default)g)")
    add_overwrite_flag(parser)
    add_process_flags(parser)
    return run_command(_run, parser, arguments)


def add_source_flags(parser: argparse.ArgumentParser) -> None:
    """Add -i and --range, which fusing and scoring share."""
    parser.add_argument("-i", dest="sources", type=Path, nargs="+", required=True,
                        help="one folder of CASE_0000, CASE_0001, ... files, or two to four of images with equal names")
    parser.add_argument("--range", dest="levels", type=float, nargs="+", metavar="BLACK WHITE",
                        help="black and white of NIfTI files that are not 8-bit: a pair for all sources, or one each; to "
                             "score, a last one for the fused images (default: 0 1 where they lie in it, else measured over "
                             "the folder)")


def _run(options: argparse.Namespace) -> None:
    from fuse4seg.datasets.sources import read_case_names
    from fuse4seg.errors import FaultyCasesError, OptionError
    from fuse4seg.evaluation.fusion_folders import evaluate_fusion
    from fuse4seg.evaluation.fusion_metrics import Conventions
    from fuse4seg.files import make_writable_folder

    levels = grey_ranges(options.levels)
    if not options.ssim_range > 0:
        raise OptionError("--ssim_range", f"must be above 0, got {options.ssim_range:g}. The range of 8-bit images is 255.")
    (own,) = claim_results({"-o": options.output}, overwrite=options.overwrite)
    conventions = Conventions(normalise=options.normalise, mi_unit=options.mi_unit, ssim_range=options.ssim_range)
    make_writable_folder(options.output.absolute().parent)
    cases = None if options.cases is None else read_case_names(options.cases)
    evaluation = evaluate_fusion(options.sources, options.fused, cases=cases, labels=options.labels, conventions=conventions,
                                 levels=levels, processes=processes_of(options))
    if evaluation.cases:
        own.note()
        evaluation.write(options.output)
        print(evaluation.format())
        if options.published:
            print(f"\n{format_published(options.published, cases=len(evaluation.cases))}")
    if evaluation.faults:
        raise FaultyCasesError(evaluation.faults)


def grey_ranges(values: Sequence[float] | None) -> list[GreyRange] | None:
    """What --range was given; None where it is to be measured.

    Raises:
        OptionError: They are no pairs, or black is not below white.
    """
    from fuse4seg.datasets.grey_images import GreyRange
    from fuse4seg.errors import OptionError

    if values is None:
        return None
    pairs = list(zip(values[::2], values[1::2], strict=False))
    if len(values) % 2:
        raise OptionError("--range", f"takes pairs of black and white, got {len(values)} number(s).")
    for low, high in pairs:
        if not low < high:
            raise OptionError("--range", f"black must be below white, got {low:g} and {high:g}.")
    return [GreyRange(low, high) for low, high in pairs]

"""f4s_ensemble: segmentations by the mean of several predictions' probabilities."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from fuse4seg.cli.command import add_overwrite_flag, make_parser, run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = make_parser("Segment cases by the mean of the probabilities in several folders, without post-processing.",
                         example="f4s_ensemble -i predictions_2d predictions_3d -o predictions")
    parser.add_argument("-i", dest="folders", type=Path, nargs="+", required=True, metavar="FOLDER",
                        help="folders by f4s_predict --save_probabilities, or nnU-Net's")
    parser.add_argument("-o", dest="output", type=Path, required=True, help="output folder")
    parser.add_argument("--save_probabilities", action="store_true", help="also write CASE.npz and CASE.pkl, as nnU-Net does")
    add_overwrite_flag(parser)
    return run_command(_run, parser, arguments)


def _run(options: argparse.Namespace) -> None:
    from fuse4seg.inference.ensemble import ensemble_folders
    from fuse4seg.inference.export_case import NPZ, SEGMENTATIONS, Wanted

    wanted = Wanted(probabilities=(NPZ,)) if options.save_probabilities else SEGMENTATIONS
    ensemble_folders(options.folders, options.output, wanted=wanted, overwrite=options.overwrite)

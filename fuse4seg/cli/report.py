"""f4s_report: a report of predictions that opens in any browser."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from fuse4seg.cli.command import add_overwrite_flag, make_parser, run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = make_parser("Write a report of predictions for any browser, offline: pictures, numbers, faults and an "
                         "interactive viewer of every case.", example="f4s_report predictions --labels labelsTs")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="by f4s_predict, or fold_X/validation of a model")
    parser.add_argument("-o", dest="output", type=Path, metavar="FOLDER", help="of the report (default: FOLDER/report)")
    parser.add_argument("-i", dest="images", type=Path, metavar="FOLDER",
                        help="sources, CASE_0000, ... (default: as run.json says)")
    parser.add_argument("--labels", type=Path, metavar="FOLDER", help="true labels, CASE: show them, Dice and HD95, too")
    parser.add_argument("--ratings", type=Path, nargs="+", default=[], metavar="FILE",
                        help="ratings that readers exported, CSV or JSON, to merge into ratings.csv and compare")
    parser.add_argument("--single_file", action="store_true", help="everything in one index.html")
    parser.add_argument("--no_viewer", action="store_true", help="pictures and numbers alone")
    add_overwrite_flag(parser)
    return run_command(_run, parser, arguments)


def _run(options: argparse.Namespace) -> None:
    from fuse4seg.report.write_report import Wish, write_report

    wish = Wish(options.images, options.labels, tuple(options.ratings), options.single_file, not options.no_viewer)
    print(write_report(options.folder, options.output, wish=wish, overwrite=options.overwrite))


if __name__ == "__main__":
    raise SystemExit(main())

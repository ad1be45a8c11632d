"""f4s_extract_fingerprint: check a raw dataset, and measure what planning needs of it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from fuse4seg.cli.command import make_parser, run_command
from fuse4seg.errors import OptionError


def add_dataset_flags(parser: argparse.ArgumentParser) -> None:
    """What all planning commands are told of the raw datasets."""
    parser.add_argument("-d", nargs="+", required=True, metavar="DATASET", help="ids or names")
    parser.add_argument("--allow_missing", action="store_true",
                        help='also train on cases that lack channels, as "missing_modalities": true says')


def add_process_flags(parser: argparse.ArgumentParser) -> None:
    """-np, as all commands that read images have it."""
    parser.add_argument("-np", type=int, metavar="PROCESSES",
                        help="cases worked on at a time (default: nnUNet_def_n_proc, else up to 8)")


def add_fingerprint_flags(parser: argparse.ArgumentParser) -> None:
    """What decides whether there is work to do."""
    parser.add_argument("--no_integrity_check", action="store_true", help="trust the dataset")
    parser.add_argument("--clean", action="store_true", help="extract anew even if a fingerprint fits")


def processes_of(options: argparse.Namespace) -> int:
    """Number of processes.

    Raises:
        OptionError: It is below 1.
    """
    processes = int(os.environ["nnUNet_def_n_proc"]) if options.np is None else options.np
    if processes < 1:
        raise OptionError("-np", f"{processes} processes can do nothing. Give at least 1.")
    return processes


def extract(options: argparse.Namespace) -> None:
    """Extract the fingerprint of every dataset."""
    processes = processes_of(options)
    from fuse4seg.planning.fingerprint import extract_fingerprint

    for dataset in options.d:
        extract_fingerprint(dataset, processes=processes, overwrite=options.clean, check=not options.no_integrity_check,
                            allow_missing=options.allow_missing)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and give its exit status."""
    parser = make_parser("Check a raw dataset and extract its fingerprint.", example="f4s_extract_fingerprint -d 501")
    add_dataset_flags(parser)
    add_fingerprint_flags(parser)
    add_process_flags(parser)
    return run_command(extract, parser, arguments)

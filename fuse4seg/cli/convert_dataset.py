"""f4s_convert_dataset: BraTS, Harvard's pairs or a Decathlon task as a raw dataset."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from fuse4seg.cli.command import make_parser, run_command
from fuse4seg.cli.extract_fingerprint import add_process_flags, processes_of

FORMATS = ("brats", "harvard", "msd")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = make_parser("Write nnUNet_raw/Dataset<OUT_ID>_<name> from a dataset as it was released; files that need no "
                         "change are linked.", example="f4s_convert_dataset brats BraTS2021_TrainingData 501")
    parser.add_argument("format", choices=FORMATS, help="brats: 2018 to 2024; harvard: PNG pairs; msd: a Decathlon task")
    parser.add_argument("source", type=Path, metavar="IN", help="folder of the release")
    parser.add_argument("dataset", type=int, metavar="OUT_ID", help="id of the new dataset")
    parser.add_argument("--name", help="its name (default: BraTS, Harvard, or the task's)")
    parser.add_argument("--copy", action="store_true", help="copy files instead of linking them")
    add_process_flags(parser)
    return run_command(_run, parser, arguments)


def _run(options: argparse.Namespace) -> None:
    processes = processes_of(options)
    from fuse4seg.datasets.brats import convert_brats
    from fuse4seg.datasets.harvard import convert_harvard
    from fuse4seg.datasets.msd import convert_msd
    from fuse4seg.errors import FolderNotFoundError

    if not options.source.is_dir():
        raise FolderNotFoundError(options.source)
    convert = {"brats": convert_brats, "harvard": convert_harvard, "msd": convert_msd}[options.format]
    named = {"name": options.name} if options.name else {}
    convert(options.source, options.dataset, copy=options.copy, processes=processes, **named)

"""f4s_register: modalities that lie apart, moved onto the reference one."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from fuse4seg.cli.command import add_overwrite_flag, make_parser, run_command
from fuse4seg.cli.extract_fingerprint import add_process_flags, processes_of


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = make_parser("Move modalities that lie elsewhere onto the reference one, rigidly, and copy all other files bit "
                         "for bit.", example="f4s_register -i imagesTs -o registered --reference T1ce")
    parser.add_argument("-i", dest="images", type=Path, required=True, help="folder of CASE_0000, CASE_0001, ... files")
    parser.add_argument("-o", dest="output", type=Path, required=True, help="another folder")
    parser.add_argument("--reference",
                        help="number or name of the reference modality (default: dataset.json's, else the first)")
    add_process_flags(parser)
    add_overwrite_flag(parser)
    return run_command(_run, parser, arguments)


def _run(options: argparse.Namespace) -> None:
    processes = processes_of(options)
    from fuse4seg.errors import FaultyCasesError
    from fuse4seg.inference.register_folder import register_folder

    faults = register_folder(options.images, options.output, reference=options.reference, processes=processes,
                             overwrite=options.overwrite)
    if faults:
        raise FaultyCasesError(faults)


"""f4s_convert_dataset: BraTS, DICOM, pairs of images or a Decathlon task as a raw dataset."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from fuse4seg.cli.command import make_parser, run_command
from fuse4seg.cli.extract_fingerprint import add_process_flags, processes_of

#: Where the converters are; each is called (source, id, *, copy, processes, name) and writes through datasets/raw_writer.py.
FORMATS = {"brats": "fuse4seg.datasets.brats.convert_brats", "dicom": "fuse4seg.datasets.dicom.convert_dicom",
           "harvard": "fuse4seg.datasets.harvard.convert_harvard", "msd": "fuse4seg.datasets.msd.convert_msd",
           "pairs": "fuse4seg.datasets.pairs.convert_pairs"}

#: Flags that one format alone has, what its converter calls them, and that format.
OF_ONE = (("--release", "release", "brats"), ("--series_rules", "rules", "dicom"), ("--channels", "channels", "dicom"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = make_parser("Write nnUNet_raw/Dataset<OUT_ID>_<name> from a released dataset; files that need no change are "
                         "linked.", example="f4s_convert_dataset brats BraTS2021_TrainingData 501")
    parser.add_argument("format", choices=FORMATS,
                        help="brats: 2018 to 2024; dicom: MR, CT, PET; harvard: PNG pairs; msd: a Decathlon task; pairs: "
                             "infrared and visible")
    parser.add_argument("source", type=Path, metavar="IN", help="folder of the release")
    parser.add_argument("dataset", type=int, metavar="OUT_ID", help="of the new dataset")
    parser.add_argument("--name", help="default: BraTS, DICOM, Harvard, Pairs, or the task's")
    parser.add_argument("--copy", action="store_true", help="copy files in place of linking them")
    parser.add_argument("--release",
                        help="brats, if files do not tell: 2018 (to 2021), 2023 (all, and MEN, MET, SSA of 2024), 2024-GLI "
                             "or 2024-PED")
    parser.add_argument("--series_rules", type=Path, metavar="FILE",
                        help="of DICOM: TOML that says which series is which channel (default: built-in rules)")
    parser.add_argument("--channels", nargs="+", metavar="NAME",
                        help="of DICOM: channels, the first of which gives the grid (default: all that the rules find)")
    add_process_flags(parser)
    return run_command(_run, parser, arguments)


def _run(options: argparse.Namespace) -> None:
    processes = processes_of(options)
    from fuse4seg.datasets.dicom_files import require_dicom
    from fuse4seg.errors import FolderNotFoundError, OptionError

    if not options.source.is_dir():
        raise FolderNotFoundError(options.source)
    if options.format == "dicom":
        require_dicom()
    module, _, function = FORMATS[options.format].rpartition(".")
    convert = getattr(import_module(module), function)
    named = {"name": options.name} if options.name else {}
    for flag, name, wanted in OF_ONE:
        if given := getattr(options, flag.strip("-")):
            if options.format != wanted:
                raise OptionError(flag, f"is for {wanted} alone. Leave it out.")
            named[name] = given
    convert(options.source, options.dataset, copy=options.copy, processes=processes, **named)

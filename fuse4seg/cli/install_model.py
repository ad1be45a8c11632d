"""f4s_install_model: models from an archive, whoever made it."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from fuse4seg.cli.command import make_parser, run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = make_parser("Install the models of an archive by f4s_export_model into nnUNet_results; no code in it is run.",
                         example="f4s_install_model brats.zip")
    parser.add_argument("archive", type=Path, metavar="FILE.zip", help="the archive")
    parser.add_argument("--overwrite", action="store_true", help="replace a model that is there")
    return run_command(_run, parser, arguments)


def _run(options: argparse.Namespace) -> None:
    from fuse4seg.sharing.install_model import install_models

    for folder in install_models(options.archive, overwrite=options.overwrite):
        trainer, plans, configuration = folder.name.split("__")
        logging.getLogger(__name__).info("installed %s: predict with f4s_predict -d %s -c %s -p %s -tr %s", folder,
                                         folder.parent.name, configuration, plans, trainer)

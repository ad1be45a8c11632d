"""f4s_export_model: trained models as one archive for others."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fuse4seg.cli.command import add_overwrite_flag, make_parser, run_command
from fuse4seg.cli.train import fold
from fuse4seg.paths import FINAL


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = make_parser("Write trained models into a zip archive of weights, plans and checksums, without any code.",
                         example="f4s_export_model -d 501 -c 2d -o brats.zip")
    parser.add_argument("-o", dest="output", type=Path, required=True, metavar="FILE.zip", help="with --onnx a folder")
    parser.add_argument("-m", dest="model", type=Path, help="DATASET/TRAINER__PLANS__CONFIGURATION, wherever it lies")
    parser.add_argument("-d", dest="dataset", help="dataset id or name")
    parser.add_argument("-c", dest="configurations", nargs="+", metavar="CONFIGURATION",
                        help="default: the only one that is trained")
    parser.add_argument("-f", dest="folds", nargs="+", type=fold, metavar="FOLD", help="default: all trained ones")
    parser.add_argument("-p", dest="plans", help="plans")
    parser.add_argument("-tr", dest="trainer", help="trainer")
    parser.add_argument("-chk", dest="checkpoints", nargs="+", default=[FINAL],
                        help=f"of each fold (default: {FINAL})")
    parser.add_argument("--onnx", action="store_true",
                        help="write leader and follower of one model as ONNX, and a program that runs them")
    add_trust_flag(parser)
    add_overwrite_flag(parser)
    return run_command(_run, parser, arguments)


def add_trust_flag(parser: argparse.ArgumentParser) -> None:
    """--trust, as the commands have it that load a model."""
    parser.add_argument("--trust", action="store_true",
                        help="run the code that a checkpoint or plans hold or name; only for models whose maker you know")


def _run(options: argparse.Namespace) -> None:
    from fuse4seg.errors import OptionError
    from fuse4seg.sharing.export_model import export_models

    if options.onnx:
        _export_onnx(options)
        return
    if options.output.suffix != ".zip" or options.output.is_dir():
        raise OptionError("-o", f"names the archive, and {options.output} is a folder or does not end with .zip.")
    models = _find_models(options)
    export_models(models, options.output, checkpoints=options.checkpoints, trust=options.trust)
    size = options.output.stat().st_size / 1e6
    logging.getLogger(__name__).info("%s: %s, %.1f MB", options.output, ", ".join(model.folder.name for model in models), size)


def _export_onnx(options: argparse.Namespace) -> None:
    from fuse4seg.errors import OptionError
    from fuse4seg.sharing.onnx import export_onnx

    if options.output.is_file() or options.output.suffix == ".zip":
        raise OptionError("-o", f"names a folder with --onnx, and {options.output} is a file or ends with .zip.")
    models = _find_models(options)
    if len(models) > 1 or len(options.checkpoints) > 1:
        raise OptionError("--onnx", "writes one model at a time. Give one configuration and one checkpoint.")
    written = export_onnx(models[0], options.output, trust=options.trust, overwrite=options.overwrite)
    logging.getLogger(__name__).info("%s: %d networks", options.output, len(written))


def _find_models(options: argparse.Namespace) -> list[Any]:
    from fuse4seg.errors import OptionError
    from fuse4seg.inference.find_model import find_model, model_in

    if options.model and any((options.dataset, options.configurations, options.plans, options.trainer)):
        raise OptionError("-m", "names the model. Leave out -d, -c, -p and -tr, or -m.")
    folds, first = options.folds and tuple(options.folds), options.checkpoints[0]
    if options.model:
        return [model_in(options.model, folds=folds, checkpoint=first)]
    return [find_model(dataset=options.dataset, configuration=configuration, plans=options.plans, trainer=options.trainer,
                       folds=folds, checkpoint=first) for configuration in options.configurations or [None]]

"""f4s_build_brats_fuse: the benchmark of every combination of modalities, from BraTS and a trained model."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from fuse4seg.cli.command import add_overwrite_flag, make_parser, run_command
from fuse4seg.cli.extract_fingerprint import add_process_flags, processes_of
from fuse4seg.cli.farm_flags import add_scheduler_flag, farm_of, with_absolute_paths
from fuse4seg.cli.train import fold
from fuse4seg.paths import FINAL


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = make_parser("Slices of BraTS, every combination of two to four modalities fused, masks, checksums, metrics. A "
                         "second run makes only what is missing or differs.",
                         example="f4s_build_brats_fuse -i BraTS2021 -o BraTS-Fuse -m Fuse4SegTrainer__Fuse4SegPlans__2d")
    parser.add_argument("-i", dest="source", type=Path, required=True,
                        help="a BraTS release (2018 to 2024), or a dataset in nnU-Net's layout")
    parser.add_argument("-o", dest="output", type=Path, required=True, help="output folder")
    parser.add_argument("-m", dest="model", type=Path, required=True, help="a model's folder, of T1, T1ce, T2, FLAIR")
    parser.add_argument("-f", dest="fold", type=fold, help="fold (default: the first that is trained)")
    parser.add_argument("-chk", dest="checkpoint", default=FINAL, help="default: %(default)s")
    parser.add_argument("--plane", choices=("axial", "coronal", "sagittal"), default="axial", help="default: %(default)s")
    parser.add_argument("-device", choices=("cuda", "cpu", "mps"), help="default: a GPU where there is one")
    add_overwrite_flag(parser)
    add_process_flags(parser)
    add_scheduler_flag(parser)
    return run_command(_run, parser, arguments)


def _run(options: argparse.Namespace) -> None:
    processes = processes_of(options)
    from fuse4seg.brats_fuse import TABLE, Build, build_brats_fuse, format_metrics
    from fuse4seg.errors import FaultyCasesError
    from fuse4seg.inference.find_model import model_in
    from fuse4seg.machine import choose_device

    if options.scheduler:
        options = with_absolute_paths(options)
    model = model_in(options.model, folds=None if options.fold is None else (options.fold,), checkpoint=options.checkpoint)
    with farm_of(options, reads=[options.source, options.model], writes=options.output, device=options.device) as farm:
        device = farm.device if farm else choose_device(options.device).type
        build = Build(options.output, model, options.checkpoint, options.plane, device)
        faults = build_brats_fuse(options.source, build, processes=processes if device == "cpu" else 1, farm=farm,
                                  overwrite=options.overwrite)
    print(format_metrics(options.output / TABLE))
    if faults:
        raise FaultyCasesError(faults)

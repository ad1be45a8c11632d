"""f4s_fuse: fused images alone, by a trained model or by a rule."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fuse4seg.cli.command import add_overwrite_flag, make_parser, run_command
from fuse4seg.cli.evaluate_fusion import add_source_flags, grey_ranges
from fuse4seg.cli.export_model import add_trust_flag
from fuse4seg.cli.farm_flags import add_scheduler_flag, farm_of, with_absolute_paths
from fuse4seg.cli.train import fold
from fuse4seg.paths import FINAL

RULE_NAMES = ("max", "mean", "laplacian", "wavelet", "colour")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = make_parser("Fuse images: nnU-Net-style cases, or folders of images with equal names.",
                         example="f4s_fuse -i CT MRI -o fused --rule max")
    add_source_flags(parser)
    parser.add_argument("-o", dest="output", type=Path, required=True, help="output folder")
    parser.add_argument("--rule", choices=RULE_NAMES, help="in place of a model")
    parser.add_argument("-m", dest="model", type=Path, help="a model's folder, Trainer__Plans__configuration")
    parser.add_argument("-d", dest="dataset", help="dataset id or name")
    parser.add_argument("-c", dest="configuration", help="configuration")
    parser.add_argument("-f", dest="fold", type=fold, help="fold (default: the first that is trained)")
    parser.add_argument("-p", dest="plans", help="plans")
    parser.add_argument("-tr", dest="trainer", help="trainer")
    parser.add_argument("-chk", dest="checkpoint", default=FINAL, help="default: %(default)s")
    parser.add_argument("-device", choices=("cuda", "cpu", "mps"), help="default: a GPU where there is one")
    add_scheduler_flag(parser)
    add_trust_flag(parser)
    add_overwrite_flag(parser)
    return run_command(_run, parser, arguments)


def _run(options: argparse.Namespace) -> None:
    from fuse4seg.datasets.grey_ranges import source_ranges
    from fuse4seg.datasets.sources import find_sources
    from fuse4seg.errors import FaultyCasesError, OptionError
    from fuse4seg.inference.fuse_folder import by_rule, fuse_folder

    levels = grey_ranges(options.levels)
    if options.rule and any((options.model, options.dataset, options.configuration, options.plans, options.trainer)):
        raise OptionError("--rule", "fuses without a model. Leave out -m, -d, -c, -p and -tr, or --rule.")
    if options.scheduler:
        options = with_absolute_paths(options)
    sources = find_sources(options.sources)
    logging.getLogger(__name__).info("fusing %s of %d cases", ", ".join(sources.names), len(sources.images))
    if options.rule:
        with farm_of(options, reads=options.sources, writes=options.output, device="") as farm:
            faults = fuse_folder(sources, options.output, by_rule(options.rule), method={"rule": options.rule},
                                 levels=source_ranges(sources, levels), overwrite=options.overwrite, farm=farm,
                                 again=partial(by_rule, options.rule))
    else:
        faults = _fuse_by_model(options, sources)
    if faults:
        raise FaultyCasesError(faults)


def _fuse_by_model(options: argparse.Namespace, sources: Any) -> list[str]:
    from fuse4seg.files import checksum
    from fuse4seg.inference.find_model import find_model, model_in
    from fuse4seg.inference.fuse_folder import by_model, by_model_again, fuse_folder
    from fuse4seg.inference.model import load_again, load_for, load_model

    folds = None if options.fold is None else (options.fold,)
    model = model_in(options.model, folds=folds, checkpoint=options.checkpoint) if options.model else find_model(
        dataset=options.dataset, configuration=options.configuration, plans=options.plans, trainer=options.trainer,
        folds=folds, checkpoint=options.checkpoint)
    load = partial(load_model, model.folder, folds=model.folds[:1], checkpoint=options.checkpoint, trust=options.trust)
    used = model.folder / f"fold_{model.folds[0]}" / options.checkpoint
    logging.getLogger(__name__).info("model: %s", used)
    method = {"model": model.folder.name, "fold": model.folds[0], "checkpoint": checksum(used)}
    with farm_of(options, reads=[model.folder.absolute(), *options.sources], writes=options.output,
                 device=options.device) as farm:
        # Fusion computes in float32 everywhere.
        loaded = load_for(farm, load, device=options.device, precision="float32")
        return fuse_folder(sources, options.output, by_model(loaded, sources.names), method=method, levels=None,
                           overwrite=options.overwrite, farm=farm,
                           again=partial(by_model_again, load_again(loaded), sources.names))

"""f4s_predict: a folder of patients in, segmentations and fused images out."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fuse4seg.cli.command import add_overwrite_flag, make_parser, run_command
from fuse4seg.cli.export_model import add_trust_flag
from fuse4seg.cli.farm_flags import add_devices_flag, add_scheduler_flag, farm_of, with_absolute_paths
from fuse4seg.cli.train import fold

if TYPE_CHECKING:
    from fuse4seg.farm.farm import Farm
    from fuse4seg.inference.export_case import Wanted
    from fuse4seg.inference.find_model import TrainedModel
    from fuse4seg.inference.model import Model


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = make_parser("Segment and fuse whole cases. The model is found when only one fits.",
                         example="f4s_predict -i imagesTs -o predictions")
    parser.add_argument("-i", dest="images", type=Path, nargs="+", required=True,
                        help="folder of CASE_0000, CASE_0001, ... files, or such files")
    parser.add_argument("-o", dest="output", type=Path, required=True, help="output folder")
    parser.add_argument("-d", dest="dataset", help="dataset id or name")
    parser.add_argument("-c", dest="configuration", help="configuration")
    parser.add_argument("-f", dest="folds", nargs="+", type=fold, help="folds to average (default: all trained ones)")
    parser.add_argument("-p", dest="plans", help="plans")
    parser.add_argument("-tr", dest="trainer", help="trainer")
    parser.add_argument("-chk", dest="checkpoint", default="checkpoint_final.pth", help="default: %(default)s")
    parser.add_argument("-device", choices=("cuda", "cpu", "mps"), help="default: a GPU where there is one")
    parser.add_argument("-step_size", type=float, default=0.5, help="step of the windows, as a part of the patch")
    parser.add_argument("--disable_tta", action="store_true", help="no mirroring: faster, a little less accurate")
    parser.add_argument("--precision", default="auto", help="of the segmentation network: float32, float16, bfloat16, or auto, "
                                                            "the fastest that the device has (default)")
    parser.add_argument("--save_attention", action="store_true", help="also write attention/CASE_MODALITY")
    parser.add_argument("--save_panels", action="store_true", help="also write panels/CASE.png")
    parser.add_argument("--save_probabilities", nargs="*", choices=("npz", "nifti"), metavar="{npz,nifti}",
                        help="also write CASE.npz and CASE.pkl, as nnU-Net does (npz, the default), or probabilities/CASE_CLASS, "
                             "float32 NIfTI whatever the input's format is (nifti), or both")
    parser.add_argument("--continue_prediction", action="store_true",
                        help="leave the cases alone that an earlier run with the same model and options has finished")
    parser.add_argument("-npp", type=_count, metavar="N", help="processes that prepare cases while others are in the network; 0: "
                                                               "none (default: what cores and memory allow)")
    parser.add_argument("-nps", type=_count, metavar="N", help="processes that export cases, likewise")
    parser.add_argument("-num_parts", type=int, default=1, help="parts that the cases are divided into (default: 1)")
    parser.add_argument("-part_id", type=int, default=0, help="which part is predicted here, from 0 on (default: 0)")
    parser.add_argument("--allow_missing", action="store_true",
                        help="also predict cases that lack channels, and list these in missing_modalities.json")
    parser.add_argument("--from_fused", action="store_true",
                        help="-i is a folder of fused images that f4s_predict wrote: segment these, and nothing else")
    parser.add_argument("-prev_stage_predictions", dest="previous_stage", type=Path, metavar="FOLDER",
                        help="of a cascade: segmentations of the stage before, CASE in the geometry of the input (default: its "
                             "model predicts them first)")
    add_devices_flag(parser, what="one process for each takes cases from one queue")
    add_scheduler_flag(parser)
    add_trust_flag(parser)
    add_overwrite_flag(parser)
    return run_command(_run, parser, arguments)


def _run(options: argparse.Namespace) -> None:
    from fuse4seg.errors import OptionError
    from fuse4seg.inference.find_model import find_model

    if not 0 < options.step_size <= 1:
        raise OptionError("-step_size", f"must be above 0 and at most 1, got {options.step_size}. The default is 0.5.")
    if not 0 <= options.part_id < options.num_parts:
        raise OptionError("-part_id", f"must be one of 0 to num_parts - 1, got {options.part_id} of {options.num_parts}.")
    model = find_model(dataset=options.dataset, configuration=options.configuration, plans=options.plans,
                       trainer=options.trainer, folds=options.folds and tuple(options.folds), checkpoint=options.checkpoint)
    if options.scheduler:
        options = with_absolute_paths(options)
    with farm_of(options, reads=[model.folder.absolute(), *options.images], writes=options.output, device=options.device) as farm:
        _predict(model, options, farm)


def _predict(model: TrainedModel, options: argparse.Namespace, farm: Farm | None) -> None:
    from fuse4seg.inference.export_case import NPZ, SEGMENTATIONS, Wanted
    from fuse4seg.inference.find_model import TrainedModel, find_previous_stage
    from fuse4seg.inference.predict_folder import FirstStage, predict_folder
    from fuse4seg.inference.preprocess_case import PREVIOUS_STAGE
    from fuse4seg.inference.run_record import open_record

    loaded = _load(model, options, farm)
    formats = None if options.save_probabilities is None else options.save_probabilities or [NPZ]
    wanted = Wanted(options.save_attention, options.save_panels, tuple(sorted(set(formats or ()))))
    if options.from_fused:
        _segment(loaded, model, options, wanted, farm)
        return
    part = options.part_id, options.num_parts
    open_part = partial(open_record, resume=options.continue_prediction, part=part)
    previous, told = find_previous_stage(model, loaded.description, given=options.previous_stage, output=options.output), None
    if isinstance(previous, TrainedModel):
        first = _load(previous, options, farm)
        told = _described(previous, first, options, SEGMENTATIONS)
        previous = FirstStage(first, previous.folds, open_part(options.output / PREVIOUS_STAGE, told))
    elif previous is not None:
        told = {"folder": str(previous)}
    record = open_part(options.output, _described(model, loaded, options, wanted, previous_stage=told))
    # What is no folder is said so of a single path; several can only be files.
    images = options.images[0] if len(options.images) == 1 and not options.images[0].is_file() else options.images
    predict_folder(loaded, images, options.output, folds=model.folds, wanted=wanted, allow_missing=options.allow_missing,
                   record=record, part=part, processes=(options.npp, options.nps), previous=previous,
                   farm=farm, overwrite=options.overwrite)


def _segment(loaded: Model, model: TrainedModel, options: argparse.Namespace, wanted: Wanted, farm: Farm | None) -> None:
    from fuse4seg.errors import OptionError
    from fuse4seg.inference.segment_folder import segment_folder

    if len(options.images) != 1:
        raise OptionError("-i", "with --from_fused takes one folder. Give the folder fused/ that f4s_predict wrote.")
    for flag, given in (("--save_attention", options.save_attention), ("--save_panels", options.save_panels),
                        ("--allow_missing", options.allow_missing), ("--continue_prediction", options.continue_prediction),
                        ("-prev_stage_predictions", options.previous_stage), ("-num_parts", options.num_parts > 1)):
        if given:
            raise OptionError(flag, "cannot be had with --from_fused, which sees fused images alone. Leave it out.")
    if options.output.resolve() == options.images[0].resolve():
        raise OptionError("-o", f"{options.output} holds the fused images, which would be replaced. Choose another folder.")
    segment_folder(loaded, options.images[0], options.output, folds=model.folds, wanted=wanted, farm=farm,
                   overwrite=options.overwrite)


def _load(model: TrainedModel, options: argparse.Namespace, farm: Farm | None) -> Model:
    from fuse4seg.inference.model import load_model
    from fuse4seg.inference.whole_case import load_for
    from fuse4seg.machine import choose_device

    load = partial(load_model, model.folder, folds=model.folds, checkpoint=model.checkpoint, mirroring=not options.disable_tta,
                   step_size=options.step_size, trust=options.trust)
    if farm is not None:
        return load_for(farm, load, precision=options.precision)
    return load(device=choose_device(options.device), precision=options.precision)


def _described(model: TrainedModel, loaded: Model, options: argparse.Namespace, wanted: Wanted, *,
               previous_stage: dict[str, Any] | None = None) -> dict[str, Any]:
    """What run.json says of a model and how it predicts."""
    from fuse4seg.inference.run_record import describe_run

    return describe_run(model.folder, folds=model.folds, checkpoint=model.checkpoint, device=str(loaded.device), options={
        **asdict(wanted), "probabilities": list(wanted.probabilities), "mirroring": not options.disable_tta,
        "step_size": options.step_size, "allow_missing": options.allow_missing,
        "precision": str(loaded.precision).removeprefix("torch.")}, previous_stage=previous_stage)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of processes, 0 or more")
    return int(text)

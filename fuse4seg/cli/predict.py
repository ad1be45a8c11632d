"""f4s_predict: a folder of patients in, segmentations and fused images out."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fuse4seg.cli.command import add_overwrite_flag, make_parser, run_command
from fuse4seg.cli.export_model import add_trust_flag
from fuse4seg.cli.farm_flags import add_devices_flag, add_scheduler_flag, farm_of, with_absolute_paths
from fuse4seg.cli.train import fold
from fuse4seg.paths import FINAL

if TYPE_CHECKING:
    from fuse4seg.evaluation.postprocessing import Rule
    from fuse4seg.farm.farm import Farm
    from fuse4seg.inference.ensemble import Member
    from fuse4seg.inference.export_case import Wanted
    from fuse4seg.inference.find_model import TrainedModel
    from fuse4seg.inference.model import Model
    from fuse4seg.inference.predict_folder import Conduct
    from fuse4seg.inference.predict_input import Job
    from fuse4seg.inference.run_record import RunRecord

log = logging.getLogger(__name__)

#: What f4s_predict leaves as soon as there is something to write.
DATASET_JSON = "dataset.json"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = make_parser("Segment and fuse whole cases. The model is found when only one fits.",
                         example="f4s_predict -i imagesTs -o predictions")
    parser.add_argument("-i", dest="images", type=Path, nargs="+", required=True,
                        help="folder of CASE_0000, CASE_0001, ... files, or such files; DICOM files; or a BIDS dataset")
    parser.add_argument("-o", dest="output", type=Path, required=True, help="output folder")
    parser.add_argument("-d", dest="dataset", help="dataset id or name")
    parser.add_argument("-c", dest="configurations", nargs="+", metavar="CONFIGURATION",
                        help="configuration; several are predicted in folders of their names, and averaged")
    parser.add_argument("-f", dest="folds", nargs="+", type=fold, metavar="FOLD", help="default: all trained ones")
    parser.add_argument("-p", dest="plans", nargs="+", metavar="PLANS", help="plans; of several models one for all, or one each")
    parser.add_argument("-tr", dest="trainers", nargs="+", metavar="TRAINER", help="trainer, likewise")
    parser.add_argument("-chk", dest="checkpoint", default=FINAL, help="default: %(default)s")
    parser.add_argument("-device", choices=("cuda", "cpu", "mps"), help="default: a GPU where there is one")
    parser.add_argument("-step_size", type=float, default=0.5,
                        help="step of the windows, as a part of the patch (default: %(default)s)")
    parser.add_argument("--disable_tta", action="store_true", help="no mirroring: faster, less accurate")
    parser.add_argument("--precision", default="auto",
                        help="of the segmentation network: float32, float16, bfloat16, or auto, the device's fastest "
                             "(default)")
    parser.add_argument("--save_attention", action="store_true", help="also write attention/CASE_MODALITY")
    parser.add_argument("--save_panels", action="store_true", help="also write panels/CASE.png")
    parser.add_argument("--report", action="store_true", help="also write report/index.html, for a browser")
    parser.add_argument("--save_probabilities", nargs="*", choices=("npz", "nifti"), metavar="{npz,nifti}",
                        help="also write CASE.npz and CASE.pkl, as nnU-Net (npz, the default), or probabilities/CASE_CLASS "
                             "as float32 NIfTI (nifti)")
    parser.add_argument("--uncertainty", action="store_true", help="also write uncertainty/CASE")
    parser.add_argument("--continue_prediction", action="store_true",
                        help="skip cases that an earlier run with the same model and options has finished")
    parser.add_argument("-npp", type=_count, metavar="N",
                        help="processes that prepare cases; 0: none (default: what cores and memory allow)")
    parser.add_argument("-nps", type=_count, metavar="N", help="processes that export cases, likewise")
    parser.add_argument("-num_parts", type=int, default=1, help="parts of the cases (default: 1)")
    parser.add_argument("-part_id", type=int, default=0, help="the part to predict, from 0 on (default: 0)")
    parser.add_argument("--allow_missing", action="store_true",
                        help="also predict cases that lack channels, listed in missing_modalities.json")
    parser.add_argument("--from_fused", action="store_true",
                        help="-i is a folder of fused images by f4s_predict: segment these")
    parser.add_argument("-prev_stage_predictions", dest="previous_stage", type=Path, metavar="FOLDER",
                        help="of a cascade: segmentations of the stage before, in the input's geometry (default: predicted "
                             "first)")
    parser.add_argument("--no_postprocessing", action="store_true", help="without the rules of f4s_find_best_configuration")
    parser.add_argument("--series_rules", type=Path, metavar="FILE",
                        help="of DICOM: TOML that says which series is which channel (default: built-in rules)")
    add_devices_flag(parser, what="a process on each, of one queue of cases")
    add_scheduler_flag(parser)
    add_trust_flag(parser)
    add_overwrite_flag(parser)
    return run_command(_run, parser, arguments)


def _run(options: argparse.Namespace) -> None:
    from fuse4seg.errors import OptionError

    if not 0 < options.step_size <= 1:
        raise OptionError("-step_size", f"must be above 0 and at most 1, got {options.step_size}. The default is 0.5.")
    if not 0 <= options.part_id < options.num_parts:
        raise OptionError("-part_id", f"must be one of 0 to num_parts - 1, got {options.part_id} of {options.num_parts}.")
    if options.report and options.num_parts > 1:
        raise OptionError("--report", "shows all parts together. Run f4s_report on the folder when these are done.")
    models = _find_models(options)
    if options.report and len(models) > 1:
        raise OptionError("--report", "shows a fused image, of which an ensemble has one for each model. Run f4s_report on their "
                                      "folders when it is done.")
    if options.scheduler:
        options = with_absolute_paths(options)
    with farm_of(options, reads=[*(model.folder.absolute() for model in models), *options.images], writes=options.output,
                 device=options.device) as farm:
        _predict_by(models, options, farm)


def _predict_by(models: list[TrainedModel], options: argparse.Namespace, farm: Farm | None) -> None:
    from fuse4seg.inference.export_case import NPZ, Wanted

    formats = None if options.save_probabilities is None else options.save_probabilities or [NPZ]
    wanted = Wanted(options.save_attention, options.save_panels, tuple(sorted(set(formats or ()))), options.uncertainty)
    if options.from_fused:
        _segment(models, options, wanted, farm)
        return
    predict = partial(_predict, models[0]) if len(models) == 1 else partial(_predict_ensemble, models)
    predict = partial(predict, options, wanted, farm)
    _predict_and_report(predict, options) if options.report else predict()


def _predict_and_report(predict: Callable[[], object], options: argparse.Namespace) -> None:
    """The report also shows what was predicted where some cases failed, and names these."""
    from fuse4seg.errors import FaultyCasesError
    from fuse4seg.report.write_report import write_report

    faults: FaultyCasesError | None = None
    try:
        predict()
    except FaultyCasesError as some:
        if not (options.output / DATASET_JSON).is_file():
            raise
        faults = some
    log.info("report: %s", write_report(options.output, overwrite=options.overwrite))
    if faults is not None:
        raise faults


def _find_models(options: argparse.Namespace) -> list[TrainedModel]:
    from fuse4seg.inference.find_model import find_members, find_model

    named = {"-c": options.configurations, "-p": options.plans, "-tr": options.trainers}
    find = partial(find_model, dataset=options.dataset, folds=options.folds and tuple(options.folds),
                   checkpoint=options.checkpoint)
    return find_members(lambda configuration, plans, trainer: find(configuration=configuration, plans=plans, trainer=trainer),
                        named)


def _predict(model: TrainedModel, options: argparse.Namespace, wanted: Wanted, farm: Farm | None) -> None:
    from fuse4seg.inference.predict_folder import predict_folder
    from fuse4seg.inference.predict_input import predict_input

    rules = _rules([model], options)
    member, _ = _member(model, options, wanted, options.output, farm=farm, rules=rules)
    predict = partial(predict_folder, member.model, output=options.output, folds=model.folds, wanted=wanted, record=member.record,
                      rules=rules, previous=member.previous, conduct=_conduct(options, farm))
    predict_input(_images(options), predict, _job(member.model, model.folds, member.record, options))


def _predict_ensemble(models: list[TrainedModel], options: argparse.Namespace, wanted: Wanted, farm: Farm | None) -> None:
    from fuse4seg.inference.ensemble import predict_ensemble
    from fuse4seg.inference.export_case import NPZ
    from fuse4seg.inference.find_model import short_names
    from fuse4seg.inference.predict_input import predict_input
    from fuse4seg.inference.run_record import describe_ensemble, open_record

    rules, names = _rules(models, options), short_names(models)
    both = [_member(model, options, replace(wanted, probabilities=(NPZ,)), options.output / name, farm=farm, name=name)
            for name, model in zip(names, models, strict=True)]
    made_by = describe_ensemble({member.name: described for member, described in both}, options={
        "probabilities": list(wanted.probabilities), "postprocessing": [rule.to_plain() for rule in rules]})
    record = open_record(options.output, made_by, resume=options.continue_prediction, part=_part(options))
    predict = partial(predict_ensemble, [member for member, _ in both], output=options.output, wanted=wanted, rules=rules,
                      record=record, conduct=_conduct(options, farm))
    # An ensemble has no fused image of its own.
    predict_input(_images(options), predict, _job(both[0][0].model, (), record, options))


def _job(model: Model, folds: tuple[int | str, ...], record: RunRecord, options: argparse.Namespace) -> Job:
    from fuse4seg.inference.predict_input import Job

    return Job(model.description, folds, model.network.fusion.reference, options.output, record, options.allow_missing,
               options.overwrite, options.series_rules, bool(options.scheduler))


def _member(model: TrainedModel, options: argparse.Namespace, wanted: Wanted, output: Path, *, farm: Farm | None, name: str = "",
            rules: tuple[Rule, ...] = ()) -> tuple[Member, dict[str, Any]]:
    """A model with its record and, of a cascade, the stage before it; and what run.json says of it."""
    from fuse4seg.inference.ensemble import Member
    from fuse4seg.inference.export_case import SEGMENTATIONS
    from fuse4seg.inference.find_model import TrainedModel, find_previous_stage
    from fuse4seg.inference.predict_folder import FirstStage
    from fuse4seg.inference.preprocess_case import PREVIOUS_STAGE
    from fuse4seg.inference.run_record import open_record

    loaded = _load(model, options, farm)
    open_part = partial(open_record, resume=options.continue_prediction, part=_part(options))
    # What was given is for those members of an ensemble that are second stages.
    given = options.previous_stage if loaded.description.previous_stage is not None or not name else None
    previous, told = find_previous_stage(model, loaded.description, given=given, output=output), None
    if isinstance(previous, TrainedModel):
        first = _load(previous, options, farm)
        told = _described(previous, first, options, SEGMENTATIONS)
        previous = FirstStage(first, previous.folds, open_part(output / PREVIOUS_STAGE, told))
    elif previous is not None:
        told = {"folder": str(previous)}
    described = _described(model, loaded, options, wanted, rules=rules, previous_stage=told)
    return Member(name, loaded, model.folds, open_part(output, described), previous), described


def _segment(models: list[TrainedModel], options: argparse.Namespace, wanted: Wanted, farm: Farm | None) -> None:
    from fuse4seg.errors import OptionError
    from fuse4seg.inference.segment_folder import segment_folder

    if len(options.images) != 1:
        raise OptionError("-i", "with --from_fused takes one folder. Give the folder fused/ that f4s_predict wrote.")
    for flag, given in (("--save_attention", options.save_attention), ("--save_panels", options.save_panels),
                        ("--report", options.report), ("--allow_missing", options.allow_missing),
                        ("--continue_prediction", options.continue_prediction),
                        ("-prev_stage_predictions", options.previous_stage), ("-num_parts", options.num_parts > 1),
                        ("--series_rules", options.series_rules)):
        if given:
            raise OptionError(flag, "cannot be had with --from_fused, which sees fused images alone. Leave it out.")
    if len(models) > 1:
        raise OptionError("-c", "takes one configuration with --from_fused: each fuses its own images.")
    if options.output.resolve() == options.images[0].resolve():
        raise OptionError("-o", f"{options.output} holds the fused images, which would be replaced. Choose another folder.")
    model, = models
    segment_folder(_load(model, options, farm), options.images[0], options.output, folds=model.folds, wanted=wanted,
                   rules=_rules(models, options), farm=farm, overwrite=options.overwrite)


def _images(options: argparse.Namespace) -> Path | list[Path]:
    """What is no folder is said so of a single path; several can only be files."""
    return options.images[0] if len(options.images) == 1 and not options.images[0].is_file() else options.images


def _conduct(options: argparse.Namespace, farm: Farm | None) -> Conduct:
    from fuse4seg.inference.predict_folder import Conduct

    return Conduct(options.allow_missing, _part(options), (options.npp, options.nps), farm, options.overwrite)


def _part(options: argparse.Namespace) -> tuple[int, int]:
    return options.part_id, options.num_parts


def _rules(models: list[TrainedModel], options: argparse.Namespace) -> tuple[Rule, ...]:
    from fuse4seg.datasets.dataset_json import label_values, read_dataset_json
    from fuse4seg.evaluation.postprocessing import read_rules

    if options.no_postprocessing:
        return ()
    rules = read_rules([model.folder for model in models], known=label_values(read_dataset_json(models[0].folder)))
    if rules:
        logging.getLogger(__name__).info("post-processing: %s", "; ".join(map(str, rules)))
    return rules


def _load(model: TrainedModel, options: argparse.Namespace, farm: Farm | None) -> Model:
    from fuse4seg.inference.model import load_for, load_model

    load = partial(load_model, model.folder, folds=model.folds, checkpoint=model.checkpoint, mirroring=not options.disable_tta,
                   step_size=options.step_size, trust=options.trust)
    return load_for(farm, load, device=options.device, precision=options.precision)


def _described(model: TrainedModel, loaded: Model, options: argparse.Namespace, wanted: Wanted, *,
               rules: tuple[Rule, ...] = (), previous_stage: dict[str, Any] | None = None) -> dict[str, Any]:
    """What run.json says of a model and how it predicts."""
    from fuse4seg.inference.run_record import describe_run, options_of

    decisive = {**options_of(loaded, wanted, allow_missing=options.allow_missing),
                "postprocessing": [rule.to_plain() for rule in rules]}
    return describe_run(model.folder, folds=model.folds, checkpoint=model.checkpoint, device=str(loaded.device), options=decisive,
                        images=_images(options), previous_stage=previous_stage)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of processes, 0 or more")
    return int(text)

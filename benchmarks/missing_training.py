"""What training on cases that lack modalities is worth: Dice of the validation cases after three trainings of each fold.

``complete`` is trained on all that there is; ``missing`` after a share of the files was removed at random, each case keeping one
at least; ``dropping`` on the cases that lost none. All three go by the same plans and segment the same validation cases: all of
them complete, and those that lost files also without these. A second run goes on where the first was left.

Example:
    python benchmarks/missing_training.py --root demo/data 999 2d -f 0 1 --work missing_training -o missing_training.json
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parent))

from training_flags import add_training_flags, budget

from fuse4seg.cli.command import make_parser, run_command
from fuse4seg.errors import OptionError

if TYPE_CHECKING:
    from fuse4seg.datasets.raw import Case

TRAININGS = COMPLETE, MISSING, DROPPING = ("complete", "missing", "dropping")
#: What a preprocessed dataset holds beside its cases, and what a preprocessed case is made of.
BESIDE, OF_A_CASE = ("dataset.json", "dataset_fingerprint.json"), (".b2nd", "_seg.b2nd", ".pkl")
#: In the work folder: the raw dataset without the removed files, and what is preprocessed of it.
INCOMPLETE_RAW, INCOMPLETE = "raw", "preprocessed"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    parser = make_parser("Train on complete cases, on cases that lack files, and on those that lack none of these.",
                         example="python benchmarks/missing_training.py 999 2d --work missing_training -o missing_training.json")
    add_training_flags(parser, dataset="planned and preprocessed, with its raw data; its training cases are complete")
    parser.add_argument("-f", dest="folds", type=int, nargs="+", default=[0], metavar="FOLD")
    parser.add_argument("--share", type=float, default=1 / 3, help="of the files that is removed (default: a third)")
    parser.add_argument("--seed", type=int, default=0, help="of what is removed, and of the trainings")
    parser.add_argument("-np", type=int, default=1, metavar="PROCESSES", help="cases preprocessed at a time (default: 1)")
    parser.add_argument("--work", type=Path, required=True, metavar="FOLDER", help="datasets and models; gone on with")
    parser.add_argument("-o", dest="output", type=Path, metavar="JSON", help="write the figures to this file, too")
    return run_command(_run, parser, arguments)


def draw_removed(cases: Sequence[str], channels: int, *, share: float, seed: int) -> dict[str, list[int]]:
    """Channels that each case loses: a share of all files, drawn at random; each case keeps one at least.

    Raises:
        OptionError: So many files cannot be removed.
    """
    wanted = round(share * len(cases) * channels)
    if not 0 <= wanted <= len(cases) * (channels - 1):
        raise OptionError("--share", f"{share:g} of the files is more than can be removed, as each case keeps one of {channels}. "
                                     "Give less.")
    files = [(case, channel) for case in sorted(cases) for channel in range(channels)]
    random.Random(seed).shuffle(files)
    removed: dict[str, list[int]] = {}
    for case, channel in files:
        if sum(map(len, removed.values())) < wanted and len(removed.get(case, ())) < channels - 1:
            removed.setdefault(case, []).append(channel)
    return {case: sorted(found) for case, found in sorted(removed.items())}


def link_raw(cases: Mapping[str, Case], removed: Mapping[str, Sequence[int]], dataset_json: Mapping[str, Any],
             folder: Path) -> None:
    """A raw dataset of links to all files but the removed ones."""
    from fuse4seg.files import make_writable_folder, write_json

    shutil.rmtree(folder, ignore_errors=True)
    images, labels = (make_writable_folder(folder / part) for part in ("imagesTr", "labelsTr"))
    ending = dataset_json["file_ending"]
    for name, case in cases.items():
        for channel, path in enumerate(case.images):
            if channel not in removed.get(name, ()):
                (images / f"{name}_{channel:04d}{ending}").symlink_to(path.absolute())
        (labels / f"{name}{ending}").symlink_to(case.label.absolute())
    kept = {entry: value for entry, value in dataset_json.items() if entry != "dataset"}
    write_json({**kept, "missing_modalities": True}, folder / "dataset.json")


def link_fold(folder: Path, *, source: Path, incomplete: Path, plans: str, identifier: str, fold: int,
              splits: Sequence[Mapping[str, Sequence[str]]], removed: Mapping[str, Sequence[int]], training: str) -> None:
    """A preprocessed dataset of links, for one training of one fold.

    Args:
        folder: Is made.
        source: The complete preprocessed dataset.
        incomplete: That without the removed files.
        plans: Name of the plans.
        identifier: Folder of the configuration's data.
        fold: Its validation cases are complete, whatever was removed of them.
        splits: Of the complete dataset.
        removed: From :func:`draw_removed`.
        training: One of TRAININGS.

    Raises:
        OptionError: Nothing is left to train on.
    """
    from fuse4seg.files import make_writable_folder, write_json

    train = [case for case in splits[fold]["train"] if training != DROPPING or case not in removed]
    if not train:
        raise OptionError("--share", f"every training case of fold {fold} lost a file. Give less.")
    shutil.rmtree(folder, ignore_errors=True)
    data = make_writable_folder(folder / identifier)
    for case in (*train, *splits[fold]["val"]):
        lacking = training == MISSING and case in removed and case in train
        for part in OF_A_CASE:
            (data / f"{case}{part}").symlink_to(((incomplete if lacking else source) / identifier / f"{case}{part}").absolute())
    (folder / "gt_segmentations").symlink_to((source / "gt_segmentations").absolute(), target_is_directory=True)
    _copy_beside(incomplete if training == MISSING else source, folder, plans)
    write_json([{**split, "train": train} if number == fold else split for number, split in enumerate(splits)],
               folder / "splits_final.json")


def _copy_beside(source: Path, folder: Path, plans: str) -> None:
    for name in (*BESIDE, f"{plans}.json"):
        shutil.copyfile(source / name, folder / name)


def figures(dice: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Means over the validation cases with their intervals, and how far training on cases that lack files is from the others.

    Args:
        dice: Of each case, by training.
    """
    from fuse4seg.evaluation.bootstrap import defined_mean, mean_interval, paired_test

    whole = [training for training in TRAININGS if training in dice]
    cases = sorted(set.intersection(*(set(dice[training]) for training in whole)))
    values = {training: [dice[training][case] for case in cases] for training in whole}
    means = {training: {"dice": defined_mean(found), "interval": mean_interval(found)} for training, found in values.items()}
    return {"dice": dice, "cases": len(cases), "mean": means,
            "paired": {f"{MISSING} less {other}": asdict(paired_test(values[MISSING], values[other]))
                       for other in (COMPLETE, DROPPING) if {MISSING, other} <= values.keys()}}


def _run(options: argparse.Namespace) -> None:
    from fuse4seg.files import write_json
    from fuse4seg.paths import PREPROCESSED, RAW, RESULTS, data_root, dataset_name

    name = dataset_name(options.dataset)
    source, work = data_root(PREPROCESSED) / name, options.work.absolute()
    removed, identifier, splits = _prepare(options, name, source, work)
    whole: dict[str, dict[str, float]] = {}
    lacking: dict[str, dict[str, float]] = {}
    for fold in options.folds:
        for training in TRAININGS:
            place = work / f"fold_{fold}" / training
            link_fold(place / "preprocessed" / name, source=source, incomplete=work / INCOMPLETE / name, plans=options.plans,
                      identifier=identifier, fold=fold, splits=splits, removed=removed, training=training)
            os.environ |= {RAW: str(work / INCOMPLETE_RAW), PREPROCESSED: str(place / "preprocessed"),
                           RESULTS: str(place / "results")}
            trained = _trained(options, name, fold)
            whole.setdefault(training, {}).update(validated(trained))
            lacking.setdefault(training, {}).update(without_removed(trained, source, identifier, removed))
            found = {"whole": figures(whole), "without_removed": figures(lacking)}
            if options.output:
                write_json({"share": options.share, "seed": options.seed, "removed": removed, **found}, options.output)
    print(json.dumps({cases: {entry: value for entry, value in one.items() if entry != "dice"} for cases, one in found.items()},
                     indent=2))


def _prepare(options: argparse.Namespace, name: str, source: Path,
             work: Path) -> tuple[dict[str, list[int]], str, list[dict[str, list[str]]]]:
    """Preprocess what is left of the raw dataset, unless it was; what was removed, the folder of the data, and the splits.

    Raises:
        OptionError: The work folder holds another removal.
    """
    from nnunetv2.utilities.crossval_split import generate_crossval_split
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from fuse4seg.datasets.dataset_json import channel_names, read_raw_dataset_json
    from fuse4seg.datasets.raw import training_cases
    from fuse4seg.datasets.splits import read_splits
    from fuse4seg.errors import UnreadableRecordError
    from fuse4seg.files import make_writable_folder, read_json, write_json
    from fuse4seg.paths import PREPROCESSED, RAW, data_root
    from fuse4seg.planning.preprocess import preprocess
    from fuse4seg.plans import read_plans

    dataset_json = read_raw_dataset_json(data_root(RAW) / name)
    cases = training_cases(data_root(RAW) / name, dataset_json)
    removed = draw_removed(list(cases), len(channel_names(dataset_json)), share=options.share, seed=options.seed)
    plans = PlansManager(read_plans(source / f"{options.plans}.json"))
    identifier = plans.get_configuration(options.configuration).data_identifier
    record, said = work / "removed.json", {"dataset": name, "plans": options.plans, "removed": removed}
    if record.is_file() and read_json(record, UnreadableRecordError) != said:
        raise OptionError("--work", f"{work} was made of other files, by another share or seed. Give another folder.")
    if not (work / INCOMPLETE / name / identifier).is_dir():
        link_raw(cases, removed, dataset_json, work / INCOMPLETE_RAW / name)
        _copy_beside(source, make_writable_folder(work / INCOMPLETE / name), options.plans)
        os.environ |= {RAW: str(work / INCOMPLETE_RAW), PREPROCESSED: str(work / INCOMPLETE)}
        write_json(said, record)
        preprocess(name, plans_name=options.plans, configurations=[options.configuration], processes=options.np)
    return removed, identifier, read_splits(source) or generate_crossval_split(sorted(cases))


def _trained(options: argparse.Namespace, name: str, fold: int) -> Path:
    """Folder of the fold, once it is trained and validated."""
    from fuse4seg.inference.validate_fold import VALIDATION
    from fuse4seg.paths import RESULTS, data_root
    from fuse4seg.selection.validated import SUMMARY
    from fuse4seg.training.run import Training, train

    training = Training(name, options.configuration, fold, options.plans, device=options.device, changes=budget(options))
    folder = data_root(RESULTS) / name / training.folder_name / f"fold_{fold}"
    if not (folder / VALIDATION / SUMMARY).is_file():
        train(training, seed=options.seed, resume=True)
    return folder


def validated(fold_folder: Path) -> dict[str, float]:
    """Mean Dice of each complete validation case, by the name of its file."""
    from finetuning import dice_of

    from fuse4seg.inference.validate_fold import VALIDATION
    from fuse4seg.selection.validated import SUMMARY

    return dice_of(fold_folder / VALIDATION / SUMMARY)


def without_removed(fold_folder: Path, source: Path, identifier: str, removed: Mapping[str, Sequence[int]]) -> dict[str, float]:
    """Mean Dice of each validation case that lost files, segmented without these, by the name of its file.

    Args:
        fold_folder: Of a trained fold.
        source: The complete preprocessed dataset.
        identifier: Folder of the configuration's data in it.
        removed: From :func:`draw_removed`.
    """
    import torch
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
    from validation_cases import case_dice, segment_present

    from fuse4seg.datasets.dataset_json import channel_names
    from fuse4seg.inference.model import load_model
    from fuse4seg.progress import progress

    fold = fold_folder.name.removeprefix("fold_")
    model = load_model(fold_folder.parent, folds=[int(fold)], device=torch.device("cpu"))
    dataset, dataset_json = nnUNetDatasetBlosc2(str(source / identifier)), model.description.dataset_json
    channels, ending = range(len(channel_names(dataset_json))), dataset_json["file_ending"]
    names = [file.removesuffix(ending) for file in validated(fold_folder)]
    found = {}
    for case in progress([name for name in names if name in removed], f"fold {fold} without files", unit="case"):
        labels = segment_present(model, dataset, case, [channel not in removed[case] for channel in channels])
        found[f"{case}{ending}"] = case_dice(labels, source / "gt_segmentations" / f"{case}{ending}", dataset_json)
    return found


if __name__ == "__main__":
    sys.exit(main())

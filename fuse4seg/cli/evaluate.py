"""f4s_evaluate: predicted segmentations against their references, per case and class, and against another method's."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fuse4seg.cli.command import add_overwrite_flag, claim_results, make_parser, require_at_least, run_command

if TYPE_CHECKING:
    from fuse4seg.evaluation.folders import Classes

DATASET_JSON = "dataset.json"
#: Of labels 1 necrotic core, 2 oedema, 3 enhancing tumour.
BRATS = {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print tables and, on request, write them; see ``f4s_evaluate --help``."""
    parser = make_parser("Dice, IoU, HD95, sensitivity and precision of predicted segmentations, per case and class.",
                         example="f4s_evaluate nnUNet_raw/Dataset501_BraTS/labelsTs predictions -o result.json")
    parser.add_argument("gt_folder", type=Path, help="reference segmentations")
    parser.add_argument("pred_folder", type=Path, help="predicted segmentations")
    parser.add_argument("-djfile", type=Path,
                        help="dataset.json that names the labels (default: among the predictions, else beside gt_folder)")
    parser.add_argument("-o", type=Path, metavar="FILE", help="write the result as JSON, and a CSV beside it")
    parser.add_argument("--summary", type=Path, metavar="FILE", help="write nnU-Net's summary.json")
    parser.add_argument("--regions", nargs="+", metavar="REGION", default=(),
                        help="further regions: brats (WT, TC, ET), or NAME=1,2,3 ...")
    parser.add_argument("--against", type=Path, metavar="FOLDER",
                        help="another method's predictions, to compare with case by case")
    parser.add_argument("--largest_component", action="store_true",
                        help="score the largest connected component of each prediction's foreground alone")
    add_overwrite_flag(parser)
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: %(default)s)")
    return run_command(_evaluate, parser, arguments)


def _evaluate(options: argparse.Namespace) -> None:
    from fuse4seg.datasets.dataset_json import foreground_classes, read_dataset_description
    from fuse4seg.errors import DatasetJsonError, FaultyCasesError
    from fuse4seg.evaluation.folders import evaluate_folders

    require_at_least(0, options.seed, flag="--seed")
    description = options.djfile or _default_dataset_json(options)
    dataset_json = read_dataset_description(description)
    if not foreground_classes(dataset_json):
        raise DatasetJsonError(description, "names no label but background, so there is nothing to score. Give -djfile FILE.")
    regions = parse_regions(options.regions, dataset_json)
    claimed = claim_results({"-o": options.o, "--summary": options.summary}, overwrite=options.overwrite)
    folders = [options.pred_folder, *([options.against] if options.against else [])]
    evaluations = [evaluate_folders(folder, options.gt_folder, dataset_json=dataset_json, regions=regions,
                                    largest_component=options.largest_component) for folder in folders]
    if evaluations[0].cases:
        for own in claimed:
            own.note()
        _report(evaluations, options, dataset_json)
    faults = [fault for evaluation in evaluations for fault in evaluation.faults]
    if faults:
        raise FaultyCasesError(faults)


def _report(evaluations: list[Any], options: argparse.Namespace, dataset_json: dict[str, Any]) -> None:
    from fuse4seg.evaluation.against import compare_evaluations, comparison_to_plain, format_comparison
    from fuse4seg.evaluation.nnunet_summary import nnunet_summary
    from fuse4seg.files import write_json

    evaluation, *others = evaluations
    if options.o:
        evaluation.write(options.o, seed=options.seed)
        if others:
            comparison = comparison_to_plain(evaluation, others[0], seed=options.seed)
            write_json({**evaluation.to_plain(seed=options.seed), "against": comparison}, options.o)
    if options.summary:
        write_json(nnunet_summary(evaluation, predictions=options.pred_folder, references=options.gt_folder,
                                  ending=dataset_json["file_ending"]), options.summary)
    print(evaluation.format(), evaluation.format_classes(seed=options.seed), sep="\n\n")
    for other in others:
        print("", format_comparison(compare_evaluations(evaluation, other, seed=options.seed)), sep="\n")
    print(f"mean foreground Dice {evaluation.foreground_mean():.4f}")


def parse_regions(words: Sequence[str], dataset_json: dict[str, Any]) -> Classes:
    """Regions as --regions gives them.

    Raises:
        OptionError: A word is none, or names a label that dataset.json does not.
    """
    from fuse4seg.datasets.dataset_json import label_values
    from fuse4seg.errors import OptionError

    regions: dict[str, tuple[int, ...]] = {}
    for word in words:
        name, equals, values = word.partition("=")
        if word == "brats":
            regions |= BRATS
        elif equals and name and all(value.isdecimal() for value in values.split(",")):
            regions[name] = tuple(map(int, values.split(",")))
        else:
            raise OptionError("--regions", f"{word} is no region. Give brats, or NAME=1,2,3.")
    for name, values in regions.items():
        unknown = sorted(set(values) - (label_values(dataset_json) - {0}))
        if unknown:
            raise OptionError("--regions", f"{name} holds label {unknown[0]}, which dataset.json does not name. Leave it out.")
    return regions


def _default_dataset_json(options: argparse.Namespace) -> Path:
    beside_predictions = options.pred_folder / DATASET_JSON
    return beside_predictions if beside_predictions.is_file() else options.gt_folder.absolute().parent / DATASET_JSON

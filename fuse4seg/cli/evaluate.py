"""f4s_evaluate: Dice of predicted segmentations, per case and class."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from fuse4seg.cli.command import make_parser, run_command

DATASET_JSON = "dataset.json"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table of Dice and, on request, write it as JSON; see ``f4s_evaluate --help``."""
    parser = make_parser("Dice of predicted segmentations against their references, per case and class.",
                         example="f4s_evaluate nnUNet_raw/Dataset501_BraTS/labelsTs predictions -o dice.json")
    parser.add_argument("gt_folder", type=Path, help="folder with the reference segmentations")
    parser.add_argument("pred_folder", type=Path, help="folder with the predicted segmentations")
    parser.add_argument("-djfile", type=Path, help="dataset.json file that names the labels (default: the one among "
                                                   "the predictions, else the one beside the reference folder)")
    parser.add_argument("-o", type=Path, metavar="FILE", help="write the result to this JSON file, too")
    return run_command(_evaluate, parser, arguments)


def _evaluate(options: argparse.Namespace) -> None:
    from fuse4seg.datasets.raw import foreground_classes, read_dataset_description
    from fuse4seg.errors import DatasetJsonError
    from fuse4seg.evaluation.folders import evaluate_folders

    description = options.djfile or _default_dataset_json(options)
    dataset_json = read_dataset_description(description)
    if not foreground_classes(dataset_json):
        raise DatasetJsonError(description, "names no label but background, so there is nothing to score. Give -djfile FILE.")
    evaluation = evaluate_folders(options.pred_folder, options.gt_folder, dataset_json=dataset_json)
    if options.o:
        evaluation.write_json(options.o)
    print(evaluation.format())
    print(f"mean foreground Dice {evaluation.foreground_mean():.4f}")


def _default_dataset_json(options: argparse.Namespace) -> Path:
    beside_predictions = options.pred_folder / DATASET_JSON
    return beside_predictions if beside_predictions.is_file() else options.gt_folder.absolute().parent / DATASET_JSON

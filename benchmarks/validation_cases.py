"""The validation cases of a comparison, segmented once more under several conditions, by our rows and by stock nnU-Net's.

What a benchmark gives: names of its conditions, and how a trained model of either kind segments a case under one of them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fuse4seg.errors import OptionError
from fuse4seg.paths import FINAL

if TYPE_CHECKING:
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

    from fuse4seg.comparison.trainings import Trial
    from fuse4seg.inference.model import Model, ModelDescription

#: Labels (Z, Y, X) of a case, by its name, under a condition, by its name.
Segment = Callable[[str, str], np.ndarray]
#: By the names of the conditions: Dice of each case.
Dice = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Ours:
    """One of our trainings.

    Attributes:
        trial: Which.
        model: As it predicts.
        dataset: The preprocessed cases.
    """

    trial: Trial
    model: Model
    dataset: nnUNetDatasetBlosc2

    @property
    def description(self) -> ModelDescription:
        """Of the model."""
        return self.model.description

    def segment(self, case: str, present: Sequence[bool]) -> np.ndarray:
        """Labels (Z, Y, X) of a case, of which these modalities are there."""
        return segment_present(self.model, self.dataset, case, present)


@dataclass(frozen=True)
class Stock:
    """A training of stock nnU-Net on stacked channels.

    Attributes:
        trial: Which.
        predictor: nnU-Net's.
        description: Of the model.
        dataset: The preprocessed cases.
        plans: Our plans of the dataset.
    """

    trial: Trial
    predictor: nnUNetPredictor
    description: ModelDescription
    dataset: nnUNetDatasetBlosc2
    plans: dict[str, Any]


def add_comparison_flags(parser: argparse.ArgumentParser) -> None:
    """Which trainings of a comparison, and how many of their cases."""
    parser.add_argument("comparison", type=Path, help="folder that f4s_compare -o made")
    parser.add_argument("dataset")
    parser.add_argument("configuration")
    parser.add_argument("-p", dest="plans", default="Fuse4SegPlans", help="default: %(default)s")
    parser.add_argument("--rows", nargs="+", default=["fuse4seg", "stacked"], help="ours and stock nnU-Net's")
    parser.add_argument("--folds", nargs="+", type=int, default=[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--cases", type=int, help="of each fold, the first so many (default: all)")
    parser.add_argument("-o", dest="output", type=Path, help="write the figures to this JSON file, too")


def measure(options: argparse.Namespace, conditions: Callable[[Sequence[str]], Sequence[str]], *,
            ours: Callable[[Ours], Segment], stock: Callable[[Stock], Segment]) -> dict[str, Dice]:
    """Mean foreground Dice of every case under every condition, by the names of the rows, over folds and seeds.

    Args:
        options: Of :func:`add_comparison_flags`; the figures so far are written where they say.
        conditions: Gives their names, from those of the modalities.
        ours: Makes what segments, of one of our trainings.
        stock: Of one of stock nnU-Net's.

    Raises:
        OptionError: The comparison holds no such training.
    """
    from fuse4seg.comparison.rows import choose_rows
    from fuse4seg.comparison.trainings import Budget, Trial
    from fuse4seg.datasets.dataset_json import channel_names, read_dataset_json
    from fuse4seg.files import write_json
    from fuse4seg.paths import PREPROCESSED, data_root, dataset_name
    from fuse4seg.plans import planned_recipe, read_plans

    name = dataset_name(options.dataset, variables=(PREPROCESSED,))
    source = data_root(PREPROCESSED) / name
    modalities = channel_names(read_dataset_json(source))
    plans = source / f"{options.plans}.json"
    budget, folder = Budget.of(planned_recipe(read_plans(plans), plans)), options.comparison.absolute()
    trials = [Trial(row, fold, seed, name, options.configuration, options.plans, folder, budget)
              for row in choose_rows(options.rows, modalities=modalities) for fold in options.folds for seed in options.seeds]
    for trial in trials:
        if not (trial.fold_folder / FINAL).is_file():
            raise OptionError("--rows", f"{trial.title}: not trained in {options.comparison}. Train it with f4s_compare -o.")
    names, rows = conditions(modalities), dict[str, dict[str, list[float]]]()
    for trial in trials:
        loaded = _ours(trial, source) if trial.row.ours else _stock(trial, source)
        segment = (ours if trial.row.ours else stock)(loaded)
        found = rows.setdefault(trial.row.name, {condition: [] for condition in names})
        for condition, dice in _scored(segment, loaded, source, names, options.cases).items():
            found[condition] += dice
        if options.output:
            write_json({"rows": rows, "folds": options.folds, "seeds": options.seeds, "cases": options.cases}, options.output)
    return rows


def losses(rows: Mapping[str, Dice], *, unchanged: str) -> str:
    """Markdown: mean Dice of each row as it is, and what each of the other conditions costs."""
    from fuse4seg.comparison.report import as_markdown

    others = [condition for condition in next(iter(rows.values())) if condition != unchanged]
    lines = []
    for name, dice in rows.items():
        before = statistics.fmean(dice[unchanged])
        lines.append([name, f"{before:.3f}", *(f"{statistics.fmean(dice[condition]) - before:+.3f}" for condition in others)])
    return as_markdown((["row", unchanged, *others], lines))


def segment_present(model: Model, dataset: nnUNetDatasetBlosc2, case: str, present: Sequence[bool]) -> np.ndarray:
    """Labels (Z, Y, X) of a preprocessed case, by our model, which is told what is there."""
    import torch

    from fuse4seg.inference.predict_case import predict_case

    data, _, _, properties = dataset.load_case(case)
    made = predict_case(model, torch.from_numpy(data[:]), properties, present=None if all(present) else tuple(present))
    return to_labels(made.logits, made.space, model.description)


def case_dice(labels: np.ndarray, truth: Path, dataset_json: Mapping[str, Any]) -> float:
    """Mean Dice over the classes that either holds, of labels (Z, Y, X) and a file of true ones."""
    import SimpleITK as sitk

    from fuse4seg.datasets.dataset_json import foreground_classes
    from fuse4seg.evaluation.bootstrap import defined_mean
    from fuse4seg.evaluation.overlap import confusion, dice

    true_labels = sitk.GetArrayFromImage(sitk.ReadImage(str(truth)))
    return defined_mean(dice(confusion(labels, true_labels, label)) for label in foreground_classes(dataset_json).values())


def to_labels(logits: np.ndarray, space: dict[str, Any], description: ModelDescription) -> np.ndarray:
    """Labels (Z, Y, X) on the input's grid."""
    from fuse4seg.inference.input_space import to_labels

    return to_labels(logits, space, description=description)[0]


def stock_labels(stock: Stock, channels: np.ndarray, properties: dict[str, Any]) -> np.ndarray:
    """Labels (Z, Y, X) of stock nnU-Net, from normalised channels (C, Z, Y, X)."""
    import torch

    from fuse4seg.nnunet_output import logged_prints

    with logged_prints():
        logits = stock.predictor.predict_logits_from_preprocessed_data(torch.from_numpy(channels)).numpy()
    return to_labels(logits, properties, stock.description)


def _ours(trial: Trial, source: Path) -> Ours:
    import torch

    from fuse4seg.inference.model import load_model

    model = load_model(trial.model, folds=[trial.fold], device=torch.device("cpu"))
    return Ours(trial, model, _preprocessed(source, model.description))


def _stock(trial: Trial, source: Path) -> Stock:
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    from fuse4seg.inference.model import ModelDescription
    from fuse4seg.nnunet_output import logged_prints

    # nnU-Net names no folder of its own where the variables are not set.
    os.environ.setdefault("nnUNet_results", str(trial.place))
    predictor = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False)
    with logged_prints():
        predictor.initialize_from_trained_model_folder(str(trial.model), [trial.fold], FINAL)
    description = ModelDescription(predictor.plans_manager, predictor.configuration_manager, predictor.dataset_json)
    plans = json.loads((source / f"{trial.plans}.json").read_text())
    return Stock(trial, predictor, description, _preprocessed(source, description), plans)


def _preprocessed(source: Path, description: ModelDescription) -> nnUNetDatasetBlosc2:
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

    return nnUNetDatasetBlosc2(str(source / description.configuration.data_identifier))


def _scored(segment: Segment, loaded: Ours | Stock, source: Path, conditions: Sequence[str],
            cases: int | None) -> dict[str, list[float]]:
    """Mean foreground Dice of every case under every condition; classes that neither holds are left out."""
    from fuse4seg.progress import progress

    dataset_json = loaded.description.dataset_json
    ending, folder = dataset_json["file_ending"], loaded.trial.fold_folder / "validation"
    names = sorted(path.name.removesuffix(ending) for path in folder.glob(f"*{ending}"))[:cases]
    found: dict[str, list[float]] = {condition: [] for condition in conditions}
    for case in progress(names, loaded.trial.row.name, unit="case"):
        for condition in conditions:
            found[condition].append(case_dice(segment(case, condition), source / "gt_segmentations" / f"{case}{ending}",
                                              dataset_json))
    return found

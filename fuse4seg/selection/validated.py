"""Validation cases of trained models, and of ensembles of two of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from fuse4seg.checkpoint import load_checkpoint
from fuse4seg.datasets.dataset_json import read_dataset_json
from fuse4seg.errors import FoldError, Fuse4SegError, OptionError, UnreadableRecordError
from fuse4seg.evaluation.learn_postprocessing import ValidationCase
from fuse4seg.files import read_json
from fuse4seg.inference.ensemble import ensemble_cases
from fuse4seg.inference.export_case import SEGMENTATIONS, Export
from fuse4seg.inference.find_model import TrainedModel, find_models, short_names
from fuse4seg.inference.model import DESCRIPTIONS, ModelDescription
from fuse4seg.inference.model_plans import read_model_plans
from fuse4seg.inference.predict_folder import claim_exports
from fuse4seg.inference.validate_fold import VALIDATION
from fuse4seg.model_errors import ModelNotFoundError
from fuse4seg.paths import PREPROCESSED, RESULTS, data_root, dataset_name

SUMMARY = "summary.json"
#: In a dataset's results: segmentations of the validation cases by ensembles.
ENSEMBLES = "ensembles"
#: Of the preprocessed data: what validation is scored by.
REFERENCES = "gt_segmentations"


@dataclass(frozen=True)
class Candidate:
    """A configuration, or an ensemble of several, with segmentations of cases that it was not trained on.

    Attributes:
        name: For tables.
        models: One, or those of the ensemble.
        folds: Of each.
        cases: Of all folds.
    """

    name: str
    models: tuple[TrainedModel, ...]
    folds: tuple[int, ...]
    cases: tuple[ValidationCase, ...]

    @cached_property
    def cost(self) -> tuple[int, int]:
        """Networks that predict a case, and parameters of all of them: less is faster."""
        return len(self.models) * len(self.folds), len(self.folds) * sum(map(self._parameters, self.models))

    def _parameters(self, model: TrainedModel) -> int:
        state = load_checkpoint(model.folder / f"fold_{self.folds[0]}" / model.checkpoint)
        # nnU-Net's U-Net holds its encoder twice.
        return sum({weight.data_ptr(): weight.numel() for weight in state["network_weights"].values()}.values())


def chosen_models(dataset: str, *, configurations: Sequence[str] | None = None, plans: Sequence[str] | None = None,
                  trainers: Sequence[str] | None = None) -> list[TrainedModel]:
    """Trained models of a dataset, all or those of some configurations, plans and trainers.

    Raises:
        DatasetNotFoundError, AmbiguousDatasetError, RootNotSetError: The dataset.
        ModelNotFoundError: Nothing is trained, or nothing of one of the names.
    """
    name = dataset_name(dataset, variables=(RESULTS,))
    wanted = {"-tr": trainers, "-p": plans, "-c": configurations}
    models = [model for model in find_models(dataset=name) if all(
        words is None or part in words for part, words in zip(model.folder.name.split("__"), wanted.values(), strict=True))]
    for place, (flag, words) in enumerate(wanted.items()):
        there = {model.folder.name.split("__")[place] for model in models}
        if missing := [word for word in words or () if word not in there]:
            raise ModelNotFoundError(data_root(RESULTS) / name, f"{flag} {missing[0]}")
    if not models:
        raise ModelNotFoundError(data_root(RESULTS) / name)
    return models


def describe(model: TrainedModel) -> ModelDescription:
    """Plans and dataset.json of a trained model."""
    plans = PlansManager(read_model_plans(model.folder / DESCRIPTIONS[1]))
    configuration = model.folder.name.rpartition("__")[2]
    return ModelDescription(plans, plans.get_configuration(configuration), read_dataset_json(model.folder))


def validated(models: Sequence[TrainedModel], folds: Sequence[int] | None, *, ending: str) -> list[Candidate]:
    """The models with their validation cases.

    Args:
        models: Of one dataset.
        folds: That count; None for all that any of them has trained.
        ending: Of the dataset's files.

    Raises:
        FoldError: Folds are not trained or not validated, which are all named in one line; or no case is in all models' folds.
        UnreadableRecordError: A summary.json is damaged.
    """
    trained = sorted({fold for model in models for fold in model.folds if isinstance(fold, int)})
    folds = tuple(trained if folds is None else sorted(set(folds)))
    names = short_names(models)
    lacking = [line for name, model in zip(names, models, strict=True) for line in _lacking(name, model, folds)]
    if lacking or not folds:
        raise FoldError(f"{models[0].folder.parent.name} {'; '.join(lacking) or 'has no fold but all'}. Mend that, or choose "
                        "folds with -f, models with -c, -p and -tr.")
    cases = [_cases(model, folds, ending) for model in models]
    common = set.intersection(*({(case.fold, case.case) for case in found} for found in cases))
    if not common:
        raise FoldError(f"{models[0].folder.parent.name}: no case is in the same fold of {', '.join(names)}. Train them by the "
                        "same splits_final.json.")
    return [Candidate(name, (model,), folds, tuple(case for case in found if (case.fold, case.case) in common))
            for name, model, found in zip(names, models, cases, strict=True)]


def _lacking(name: str, model: TrainedModel, folds: Sequence[int]) -> list[str]:
    untrained = [fold for fold in folds if fold not in model.folds]
    unvalidated = [fold for fold in folds if fold in model.folds and not (_folder(model, fold) / SUMMARY).is_file()]
    lines = [f"{name} is not trained on fold {', '.join(map(str, untrained))}"] if untrained else []
    return [*lines, *([f"{name} lacks the validation of fold {', '.join(map(str, unvalidated))} (f4s_train --val)"]
                      if unvalidated else [])]


def _folder(model: TrainedModel, fold: int) -> Path:
    return model.folder / f"fold_{fold}" / VALIDATION


def _cases(model: TrainedModel, folds: Sequence[int], ending: str) -> list[ValidationCase]:
    """By summary.json: the folder may hold more."""
    references = data_root(PREPROCESSED) / model.folder.parent.name / REFERENCES
    found = []
    for fold in folds:
        path = _folder(model, fold) / SUMMARY
        content = read_json(path, lambda path, problem="is missing": UnreadableRecordError(
            path, problem, mend="Validate again with f4s_train --val."))
        try:
            names = [Path(case["prediction_file"]).name for case in content["metric_per_case"]]
        except (LookupError, TypeError) as error:
            raise UnreadableRecordError(path, "is no summary", mend="Validate again with f4s_train --val.") from error
        if gone := [name for name in names if not path.with_name(name).is_file()]:
            raise UnreadableRecordError(path.with_name(gone[0]), "is missing", mend="Validate again with f4s_train --val.")
        found += [ValidationCase(name.removesuffix(ending), fold, path.with_name(name), references / name) for name in names]
    return found


def require_probabilities(candidates: Sequence[Candidate]) -> None:
    """Make sure that ensembles can be made of models.

    Raises:
        OptionError: Folds were validated without probabilities; all of them are named in one line.
    """
    lacking: dict[str, dict[int, None]] = {}
    for candidate in candidates:
        for case in candidate.cases:
            if not case.prediction.with_name(f"{case.case}.npz").is_file():
                lacking.setdefault(candidate.name, {})[case.fold] = None
    if lacking:
        folds = "; ".join(f"{name} of fold {', '.join(map(str, found))}" for name, found in lacking.items())
        raise OptionError("--disable_ensembling", f"is needed, as validation cases have no probabilities: {folds}. Or make them "
                                                  "with f4s_train --val --npz.")


def paired(one: Candidate, other: Candidate, description: ModelDescription) -> tuple[Candidate, list[Fuse4SegError]]:
    """The ensemble of two models: validation cases segmented by the mean of their probabilities.

    Args:
        one: Of one model.
        other: Likewise.
        description: Of either.

    Returns:
        The ensemble, and what is wrong with cases that are not in it.

    Raises:
        UnwritableFolderError: The results folder cannot be written to.
    """
    models = (*one.models, *other.models)
    place = models[0].folder.parent / ENSEMBLES / "+".join(sorted(model.folder.name for model in models))
    cases: list[ValidationCase] = []
    faults: list[Fuse4SegError] = []
    for fold in one.folds:
        inside = [case for case in one.cases if case.fold == fold]
        folders, names = [_folder(model, fold) for model in models], [case.case for case in inside]
        export = Export(description, place / f"fold_{fold}", (), 0, SEGMENTATIONS)
        failed = ensemble_cases(names, folders, export, claim_exports(names, export))
        faults += failed.values()
        cases += [ValidationCase(case.case, fold, export.output / case.prediction.name, case.reference) for case in inside
                  if case.case not in failed]
    return Candidate(f"{one.name} + {other.name}", models, one.folds, tuple(cases)), faults

"""Find a trained model by what the user said about it, and the stage before it where it is a later stage of a cascade."""

from __future__ import annotations

import glob
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fuse4seg.errors import FolderNotFoundError, OptionError
from fuse4seg.model_errors import AmbiguousModelError, ModelNotFoundError, PreviousStageNotFoundError
from fuse4seg.paths import FINAL, RESULTS, data_root, dataset_name

if TYPE_CHECKING:
    from fuse4seg.inference.model import ModelDescription

log = logging.getLogger(__name__)

NETWORK = "FuseThenSegment"


@dataclass(frozen=True)
class TrainedModel:
    """A folder of trained folds.

    Attributes:
        folder: <results>/<dataset>/<trainer>__<plans>__<configuration>.
        folds: Those with the wanted checkpoint; numbers, or "all" where there is nothing else.
        checkpoint: The wanted one.
    """

    folder: Path
    folds: tuple[int | str, ...]
    checkpoint: str = FINAL

    @property
    def flags(self) -> str:
        """Flags that choose this model."""
        trainer, plans, configuration = self.folder.name.split("__")
        return f"-d {self.folder.parent.name} -c {configuration} -p {plans} -tr {trainer}"


def find_model(*, dataset: str | None = None, configuration: str | None = None, plans: str | None = None,
               trainer: str | None = None, folds: tuple[int | str, ...] | None = None,
               checkpoint: str = FINAL) -> TrainedModel:
    """The one trained model of ours that fits; what is None may be anything.

    Args:
        dataset: Id or name.
        configuration: Such as 2d.
        plans: Name of the plans.
        trainer: Name of the trainer class.
        folds: Folds that must be there; if None, all trained ones.
        checkpoint: File that makes a fold count as trained.

    Raises:
        ModelNotFoundError: None fits.
        AmbiguousModelError: Several fit; they are listed with their flags.
    """
    candidates = find_models(dataset=dataset, configuration=configuration, plans=plans, trainer=trainer, folds=folds,
                             checkpoint=checkpoint)
    if not candidates:
        wanted = " ".join(f"{flag} {value}" for flag, value in (("-d", dataset), ("-c", configuration), ("-p", plans),
                          ("-tr", trainer), ("-f", folds and " ".join(map(str, folds)))) if value)
        raise ModelNotFoundError(data_root(RESULTS), wanted)
    if len(candidates) > 1:
        raise AmbiguousModelError(candidate.flags for candidate in candidates)
    return candidates[0]


def find_models(*, dataset: str | None = None, configuration: str | None = None, plans: str | None = None,
                trainer: str | None = None, folds: tuple[int | str, ...] | None = None,
                checkpoint: str = FINAL) -> list[TrainedModel]:
    """All trained models of ours that fit, by the names of their folders; arguments as for :func:`find_model`."""
    results = data_root(RESULTS)
    wanted_dataset = dataset_name(dataset, variables=(RESULTS,)) if dataset is not None else "Dataset*"
    words = ("*" if word is None else glob.escape(word) for word in (trainer, plans, configuration))
    pattern = f"{wanted_dataset}/{'__'.join(words)}"
    return [TrainedModel(folder, trained, checkpoint) for folder in sorted(results.glob(pattern))
            if folder.name.count("__") == 2 and _is_ours(folder) and (trained := _folds(folder, folds, checkpoint))]


def find_members(find: Callable[[str | None, str | None, str | None], TrainedModel],
                 named: Mapping[str, Sequence[str] | None]) -> list[TrainedModel]:
    """Models of an ensemble, or a single one.

    Args:
        find: Gives the model of a configuration, plans and trainer, of which any may be None.
        named: These three by their flags; one value of a flag is for all models, several are one for each.

    Raises:
        OptionError: The numbers of values do not fit, or the models are the same, or of different datasets.
    """
    given = {flag: values or [None] for flag, values in named.items()}
    most = max(map(len, given.values()))
    for flag, values in given.items():
        if len(values) not in (1, most):
            raise OptionError(flag, f"has {len(values)} values, and another flag {most}. Give one for all models, or one each.")
    each = (values if len(values) == most else [*values] * most for values in given.values())
    models = [find(*words) for words in zip(*each, strict=True)]
    if len({model.folder for model in models}) < most:
        raise OptionError(", ".join(given), "name the same model twice. Leave one out.")
    if len({model.folder.parent for model in models}) > 1:
        raise OptionError("-d", f"is needed: {models[0].folder} and {models[1].folder} are of different datasets.")
    return models


def short_names(models: Sequence[TrainedModel]) -> list[str]:
    """What tells models of one dataset apart: their configurations, or else all of their folders' names."""
    configurations = [model.folder.name.rpartition("__")[2] for model in models]
    unique = len(set(configurations)) == len(configurations)
    return configurations if unique else [model.folder.name for model in models]


def model_in(folder: Path, *, folds: tuple[int | str, ...] | None = None,
             checkpoint: str = FINAL) -> TrainedModel:
    """The trained model of ours in a folder Trainer__Plans__configuration, wherever it lies.

    Raises:
        ModelNotFoundError: There is none, or not with those folds.
    """
    trained = _folds(folder, folds, checkpoint) if _is_ours(folder) else ()
    if not trained:
        raise ModelNotFoundError(folder, folds and "-f " + " ".join(map(str, folds)) or "")
    return TrainedModel(folder, trained, checkpoint)


def find_previous_stage(model: TrainedModel, description: ModelDescription, *, given: Path | None,
                        output: Path) -> TrainedModel | Path | None:
    """Where a model's previous stage comes from; None where it has none.

    Args:
        model: The chosen one.
        description: Of the same.
        given: Folder of segmentations that the user named; if None, the trained model of the previous stage is taken.
        output: Folder of predictions.

    Raises:
        OptionError: A folder was given to a model that is not a later stage, or is the output folder; or the previous stage has
            a previous one itself.
        FolderNotFoundError: There is no such folder.
        PreviousStageNotFoundError: The previous stage is not trained.
    """
    if description.previous_stage is None:
        if given is not None:
            raise OptionError("-prev_stage_predictions", f"{model.folder} is no later stage of a cascade. Leave it out, or "
                                                         f"choose one with -c, such as 3d_cascade_fullres.")
        return None
    if given is None:
        return trained_previous_stage(model, description)
    if not given.is_dir():
        raise FolderNotFoundError(given)
    if given.resolve() == output.resolve():
        raise OptionError("-prev_stage_predictions", f"{given} is the output folder, where they would be replaced. Give another "
                                                     f"folder with -o.")
    return given


def trained_previous_stage(model: TrainedModel, description: ModelDescription) -> TrainedModel:
    """The trained model of the previous stage, beside that of the stage after: same trainer and plans.

    Args:
        model: The stage after.
        description: Of the same.

    Returns:
        The model with those of the same folds that are trained, or all of its own where none is; with the same checkpoint, or
        the final one, since a stage is finished before the next is trained.

    Raises:
        OptionError: The previous stage has a previous one itself.
        PreviousStageNotFoundError: It is not trained.
    """
    name = description.previous_stage
    if description.plans.get_configuration(name).previous_stage_name is not None:
        raise OptionError("-c", f"{name}, the stage before, is itself a later stage. Predict it first, and give its "
                                f"segmentations with -prev_stage_predictions.")
    prefix, separator, _ = model.folder.name.rpartition("__")
    folder = model.folder.with_name(f"{prefix}{separator}{name}")
    for checkpoint in dict.fromkeys((model.checkpoint, FINAL)):
        try:
            trained = model_in(folder, checkpoint=checkpoint)
        except ModelNotFoundError:
            continue
        both = tuple(fold for fold in model.folds if (folder / f"fold_{fold}" / checkpoint).is_file())
        found = TrainedModel(folder, both or trained.folds, checkpoint)
        log.info("previous stage: %s, fold %s", name, ", ".join(map(str, found.folds)))
        if found.folds != model.folds:
            log.warning("%s is not trained on the same folds as the stage after it (%s)", name, ", ".join(map(str, model.folds)))
        return found
    raise PreviousStageNotFoundError(model.folder, folder)


def _is_ours(folder: Path) -> bool:
    """Whether the folder's plans name our network; stock nnU-Net models lie in the same place."""
    try:
        return NETWORK in (folder / "plans.json").read_text() and bool(json.loads((folder / "dataset.json").read_text()))
    except (OSError, ValueError, RecursionError):
        return False


def _folds(folder: Path, wanted: tuple[int | str, ...] | None, checkpoint: str) -> tuple[int | str, ...]:
    """Trained folds, or nothing unless all wanted ones are trained."""
    names = [path.parent.name.removeprefix("fold_") for path in folder.glob(f"fold_*/{checkpoint}")]
    trained: list[int | str] = sorted(int(name) for name in names if name.isdecimal())
    if wanted is not None:
        return tuple(wanted) if set(wanted) <= {*trained, *(["all"] if "all" in names else [])} else ()
    return tuple(trained) or (("all",) if "all" in names else ())

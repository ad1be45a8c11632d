"""Cascades: the stage before the chosen one, as a folder of its segmentations or as a model that makes them."""

from __future__ import annotations

import logging
from pathlib import Path

from fuse4seg.errors import FolderNotFoundError, ModelNotFoundError, OptionError, PreviousStageNotFoundError
from fuse4seg.inference.model import Model
from fuse4seg.inference.models import FINAL, TrainedModel, model_in

log = logging.getLogger(__name__)


def find_previous_stage(model: TrainedModel, loaded: Model, *, given: Path | None,
                        output: Path) -> TrainedModel | Path | None:
    """Where a model's previous stage comes from; None where it has none.

    Args:
        model: The chosen one.
        loaded: The same, loaded.
        given: Folder of segmentations that the user named; if None, the trained model of the previous stage is taken.
        output: Folder of predictions.

    Raises:
        OptionError: A folder was given to a model that is not a later stage, or is the output folder; or the previous stage has
            a previous one itself.
        FolderNotFoundError: There is no such folder.
        PreviousStageNotFoundError: The previous stage is not trained.
    """
    if loaded.previous_stage is None:
        if given is not None:
            raise OptionError("-prev_stage_predictions", f"{model.folder} is no later stage of a cascade. Leave it out, or "
                                                         f"choose one with -c, such as 3d_cascade_fullres.")
        return None
    if given is None:
        return trained_previous_stage(model, loaded)
    if not given.is_dir():
        raise FolderNotFoundError(given)
    if given.resolve() == output.resolve():
        raise OptionError("-prev_stage_predictions", f"{given} is the output folder, where they would be replaced. Give another "
                                                     f"folder with -o.")
    return given


def trained_previous_stage(model: TrainedModel, loaded: Model) -> TrainedModel:
    """The trained model of the previous stage, beside that of the stage after: same trainer and plans.

    Args:
        model: The stage after.
        loaded: The same, loaded.

    Returns:
        The model with those of the same folds that are trained, or all of its own where none is; with the same checkpoint, or
        the final one, since a stage is finished before the next is trained.

    Raises:
        OptionError: The previous stage has a previous one itself.
        PreviousStageNotFoundError: It is not trained.
    """
    name = loaded.previous_stage
    if loaded.plans.get_configuration(name).previous_stage_name is not None:
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

"""The recipe of a training: whether it fits the dataset, and what a checkpoint says of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fuse4seg.datasets.dataset_json import NO_LABELS, channel_names, foreground_classes
from fuse4seg.errors import RecipeError
from fuse4seg.model_errors import CheckpointError
from fuse4seg.networks.follower import follower_kind
from fuse4seg.recipes.reading import from_plain
from fuse4seg.recipes.recipe import Recipe

#: nnU-Net draws 50 validation batches for 250 training batches.
TRAINING_PER_VALIDATION = 5


def validation_iterations(iterations: int) -> int:
    """Validation batches of an epoch, in nnU-Net's proportion."""
    return max(1, iterations // TRAINING_PER_VALIDATION)


def deep_supervision(recipe: Recipe, stages: int) -> bool:
    """Whether a follower of so many stages is taught at several resolutions."""
    # nnU-Net weighs the coarsest output 0; with two stages it is the only one.
    return stages > 2 and follower_kind(recipe.follower.network).deep_supervision


def described_for(recipe: Recipe, dataset_json: dict[str, Any]) -> dict[str, Any]:
    """dataset.json as a recipe sees it: one that segments nothing sees no labels, by which the model knows."""
    return dataset_json if recipe.segments else {**dataset_json, "labels": NO_LABELS}


def require_fit(recipe: Recipe, dataset_json: dict[str, Any]) -> None:
    """Make sure that a dataset can be trained on by a recipe.

    Raises:
        RecipeError: It has no labels to segment, or one modality that would be left out.
    """
    recipe.require_labels(labelled=bool(foreground_classes(dataset_json)))
    if recipe.training.modality_dropout and len(channel_names(dataset_json)) == 1:
        raise RecipeError("training.modality_dropout", "the dataset has one modality, which cannot be left out. Set it to 0.",
                          source=recipe.name)


def trained_with(state: dict[str, Any], path: Path) -> tuple[Recipe, int]:
    """Recipe and seed of a checkpoint.

    Raises:
        CheckpointError: It does not say so, or another version wrote it.
    """
    try:
        return from_plain(state["recipe"], source=str(path)), int(state["seed"])
    except (KeyError, TypeError, RecipeError) as error:
        raise CheckpointError(path, "is no checkpoint of Fuse4Seg, or one of another version. Train again.") from error

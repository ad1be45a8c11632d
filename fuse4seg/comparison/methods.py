"""What a row trains: the plans' recipe, or a rival's under the same patch, batch and budget."""

from __future__ import annotations

import copy
from dataclasses import fields, replace
from typing import Any

from fuse4seg.comparison.rows import Row
from fuse4seg.datasets.dataset_json import declaration_kept
from fuse4seg.errors import RecipeError
from fuse4seg.networks.follower import follower_kind
from fuse4seg.networks.pair_leader import PAIR, PairSettings
from fuse4seg.planning.leaders import leader_architecture, require_leader
from fuse4seg.planning.options import PlanOptions
from fuse4seg.planning.planner import Fuse4SegPlanner, chosen_reference, planner_of
from fuse4seg.plans import OURS, RECIPE, planned_recipe
from fuse4seg.recipes.reading import changed, read_recipe, to_plain
from fuse4seg.recipes.recipe import Patches, Recipe


def recipe_of(row: Row, plans: dict[str, Any]) -> Recipe:
    """What a row trains; of stock nnU-Net the follower alone counts.

    A rival's stage 1 comes before as many epochs as everybody gets, in the proportion that its recipe has. More than two
    modalities are folded.

    Args:
        row: Which.
        plans: Of the dataset, ours.

    Raises:
        RecipeError: A change fits no recipe, or is of what all rows have alike, or a leader does not fit the dataset.
    """
    known = planned_recipe(plans, plans["plans_name"])
    names = modalities_of(row, plans)
    for path in (change.partition("=")[0] for change in row.changes):
        if _is_alike(known, path):
            raise RecipeError(path, "is the same for all rows. Plan with it under another name, and compare in another folder.",
                              source=row.name)
    recipe = changed(_begun_with(row, known, names), row.changes)
    # Refused before anything is written.
    chosen_reference(recipe, names)
    require_leader(recipe, names)
    return recipe


def modalities_of(row: Row, plans: dict[str, Any]) -> list[str]:
    """Names of the channels that a row of ours fuses: those of the dataset, or its one image, which bears its name."""
    return plans[OURS]["channel_names"] if row.source is None else [row.name]


def _begun_with(row: Row, known: Recipe, modalities: list[str]) -> Recipe:
    """The recipe before its changes."""
    if row.recipe is not None:
        recipe = _folded(read_recipe(row.recipe), modalities)
        # What reads an image from elsewhere is that which reads all others.
        follower = recipe.follower if recipe.segments and row.source is None else known.follower
        training = replace(known.training, modality_dropout=recipe.training.modality_dropout)
        return replace(_scaled(recipe, known), patches=known.patches, training=training, follower=follower)
    if row.leader is not None:
        rival = _scaled(_folded(read_recipe(row.leader), modalities), known)
        return replace(known, leader=rival.leader, losses=rival.losses, pretraining=rival.pretraining,
                       bilevel=replace(known.bilevel, auxiliary_weight=0))
    return known


def _scaled(recipe: Recipe, known: Recipe) -> Recipe:
    first = recipe.pretraining
    if not first.epochs:
        return recipe
    epochs = max(1, round(known.training.epochs * first.epochs / recipe.training.epochs))
    return replace(recipe, pretraining=replace(first, epochs=epochs))


def _folded(recipe: Recipe, modalities: list[str]) -> Recipe:
    if len(modalities) > PAIR and isinstance(recipe.leader, PairSettings):
        return replace(recipe, leader=replace(recipe.leader, folding=True))
    return recipe


def _is_alike(recipe: Recipe, path: str) -> bool:
    """Whether planning decides an entry; each row of ours may have its own leader."""
    section, _, entry = path.partition(".")
    if section == "leader" or getattr(recipe, section, None) is None:
        return False
    return any(own.name == entry and own.metadata["planned"] for own in fields(getattr(recipe, section)))


def plans_of(row: Row, plans: dict[str, Any], recipe: Recipe, *, dataset: str, configuration: str) -> dict[str, Any]:
    """The dataset's plans with a row's leader, follower and recipe; patch and batch stay.

    Args:
        row: Which.
        plans: Of the dataset, ours.
        recipe: Of :func:`recipe_of`.
        dataset: Full name; of another follower its raw data and fingerprint are read.
        configuration: The one to be trained.

    Raises:
        RecipeError: Another follower does not take images of so many axes, or this patch.
    """
    made = copy.deepcopy(plans)
    asks = chosen_reference(recipe, modalities_of(row, plans)) if row.source is None else 0
    for plan in made["configurations"].values():
        if "architecture" in plan:
            arguments = plan["architecture"]["arch_kwargs"]
            reference = arguments["leader"]["arch_kwargs"]["reference"] if asks is None else asks
            arguments["leader"] = leader_architecture(recipe, reference)
    if recipe.follower != planned_recipe(plans, plans["plans_name"]).follower:
        arguments = made["configurations"][configuration]["architecture"]["arch_kwargs"]
        arguments["follower"] = _planned_follower(recipe, plans, dataset=dataset, configuration=configuration, row=row)
    return {**made, OURS: {**made[OURS], RECIPE: to_plain(recipe)}}


def require_axes(row: Row, recipe: Recipe, configuration: str, axes: int) -> None:
    """Make sure that a row's follower takes images of so many axes, which the configuration has.

    Raises:
        RecipeError: It does not.
    """
    taken = follower_kind(recipe.follower.network).axes
    if axes not in taken:
        raise RecipeError("follower.network", f"{recipe.follower.network} takes images of {' or '.join(map(str, taken))} axes, "
                                              f"and {configuration} has {axes}. Leave the row out, or compare 2d.",
                          source=row.name)


def _planned_follower(recipe: Recipe, plans: dict[str, Any], *, dataset: str, configuration: str, row: Row) -> dict[str, Any]:
    """Another follower for the same patch, as planning would lay it out."""
    plan = plans["configurations"][configuration]
    fixed = replace(recipe, patches=Patches(size=tuple(plan["patch_size"]), batch=plan["batch_size"], largest_batch=0))

    class Planner(Fuse4SegPlanner):
        """Plans by that recipe, whatever the memory, and keeps what it planned to itself."""

        def _fitting_recipe(self) -> Recipe:
            return fixed

        def static_estimate_VRAM_usage(self, *_: object, **__: object) -> int:  # noqa: N802
            return 1

        def save_plans(self, plans: dict[str, Any]) -> None:
            self.made = plans

    options = PlanOptions(gpu_memory_target=plans[OURS]["gpu_memory_target"], plans_name=plans["plans_name"],
                          overwrite_target_spacing=plans[OURS]["overwrite_target_spacing"], allow_missing=True)
    planner = planner_of(recipe.follower.network, Planner)(dataset, options=options)
    require_axes(row, recipe, configuration, len(plan["patch_size"]))
    with declaration_kept(planner.folder):
        planner.plan_experiment()
    return planner.made["configurations"][configuration]["architecture"]["arch_kwargs"]["follower"]

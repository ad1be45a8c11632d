"""What plans say of a leader, and whether a recipe asks of it what it has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from fuse4seg.errors import RecipeError
from fuse4seg.networks.leader import LeaderNetwork
from fuse4seg.networks.pair_leader import PAIR, PairLeader
from fuse4seg.recipes.kinds import network_module
from fuse4seg.recipes.recipe import Leader, Recipe

#: Channels of the fused image.
COLOURS = {"colour": 3, "grey": 1}


def leader_class(recipe: Recipe) -> type[LeaderNetwork]:
    """Class of a recipe's leader."""
    return network_module("leader", recipe.leader.network).LEADER


def leader_architecture(recipe: Recipe, reference: int) -> dict[str, Any]:
    """A leader as nnU-Net writes a network into plans.

    Args:
        recipe: Whose leader.
        reference: Index of the modality that asks in the cross-attention.
    """
    leader, network = recipe.leader, leader_class(recipe)
    return {"network_class_name": f"{network.__module__}.{network.__qualname__}", "_kw_requires_import": [],
            "arch_kwargs": {"reference": reference, "colours": COLOURS[leader.fused_image], **own_entries(leader, Leader)}}


def own_entries(section: Any, common: type) -> dict[str, Any]:
    """Entries that the file of a network adds to a section, which its constructor takes by name."""
    shared = {own.name for own in fields(common)}
    return {own.name: getattr(section, own.name) for own in fields(section) if own.name not in shared}


def require_leader(recipe: Recipe, modalities: Sequence[str]) -> None:
    """Make sure that a leader has what its recipe asks for, and takes the dataset's modalities.

    Raises:
        RecipeError: It does not; it says what would do.
    """
    network, name = leader_class(recipe), recipe.leader.network
    if issubclass(network, PairLeader):
        _require_pair(recipe, modalities)
    if not network.fuses:
        _require_image(recipe, modalities)
    losses, first, bilevel = recipe.losses, recipe.pretraining, recipe.bilevel
    lacking = {
        "losses.own": losses.own and network.losses is LeaderNetwork.losses,
        "losses.decomposition": losses.decomposition and not network.takes_apart,
        "pretraining.own": first.epochs and first.own and not network.reconstructs,
        "pretraining.epochs": first.epochs and not first.own and not network.rebuilds,
        "bilevel.auxiliary_weight": bilevel is not None and bilevel.auxiliary_weight and not network.has_features,
    }
    for path, lacks in lacking.items():
        if lacks:
            without = "false" if path == "pretraining.own" else "0"
            raise RecipeError(path, f"the leader {name} has nothing for it. Set it to {without}.", source=recipe.name)


def _require_pair(recipe: Recipe, modalities: Sequence[str]) -> None:
    name, count = recipe.leader.network, len(modalities)
    if count < PAIR:
        raise RecipeError("leader.network", f"{name} fuses two modalities, and the dataset has one. Use the leader gate.",
                          source=recipe.name)
    if count > PAIR and not recipe.leader.folding:
        raise RecipeError("leader.folding", f"{name} fuses two modalities, as published, and there are {count}. Fold them in one "
                                            "after the other with --set leader.folding=true.", source=recipe.name)


def _require_image(recipe: Recipe, modalities: Sequence[str]) -> None:
    name = recipe.leader.network
    if len(modalities) > 1:
        raise RecipeError("leader.network", f"{name} fuses nothing: it reads one image, and the dataset has {len(modalities)} "
                                            "modalities. Fuse them first, and compare: f4s_compare --rows table3 --images.",
                          source=recipe.name)
    if not recipe.segments:
        raise RecipeError("leader.network", f"{name} leaves the image as it is, so that nothing is trained where nothing is "
                                            "segmented. Use the leader gate.", source=recipe.name)

"""What plans say of a follower, on top of nnU-Net's planner of it."""

from __future__ import annotations

import pydoc
from typing import Any

from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner

from fuse4seg.networks.follower import StagedSettings, follower_kind
from fuse4seg.planning.leaders import own_entries
from fuse4seg.recipes.recipe import Follower


def nnunet_planner(network: str) -> type[ExperimentPlanner]:
    """nnU-Net's planner that lays out patch, batch and stages of a follower."""
    return pydoc.locate(follower_kind(network).planner)


def follower_architecture(follower: Follower, planned: dict[str, Any]) -> dict[str, Any]:
    """A follower as it stands in plans.

    Args:
        follower: Section of a recipe.
        planned: What nnU-Net's planner says: network_class_name, arch_kwargs, _kw_requires_import.
    """
    kind = follower_kind(follower.network)
    own = own_entries(follower, StagedSettings if isinstance(follower, StagedSettings) else Follower)
    arguments, imported = planned["arch_kwargs"], list(planned["_kw_requires_import"])
    if kind.fixed:
        # nnU-Net reads the strides there, whatever they are used for.
        arguments, imported = {entry: arguments[entry] for entry in ("conv_op", "strides")}, ["conv_op"]
    name = planned["network_class_name"] if kind.network is None else f"{kind.network.__module__}.{kind.network.__qualname__}"
    return {"network_class_name": name, "arch_kwargs": {**arguments, **own}, "_kw_requires_import": imported}

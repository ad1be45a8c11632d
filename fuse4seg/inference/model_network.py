"""The network of a trained model, built only once its weights are known to fit what plans.json says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import Tensor, nn

from fuse4seg import __version__
from fuse4seg.errors import CheckpointError, ModelPlansError, first_line
from fuse4seg.networks.fuse_then_segment import FuseThenSegment
from fuse4seg.networks.planned_network import build_network
from fuse4seg.plans import OURS

Weights = Mapping[str, Tensor]


def require_predictive(state: Mapping[str, Any], path: Path, *, dimensions: int) -> None:
    """Make sure that a checkpoint holds what prediction takes from it.

    Args:
        state: Its content.
        path: Its file.
        dimensions: Axes of the patch, 2 or 3.

    Raises:
        CheckpointError: Something is missing or of another kind.
    """
    weights, axes = state.get("network_weights"), state.get("inference_allowed_mirroring_axes")
    try:
        dropout = state["recipe"]["training"]["modality_dropout"]
    except (LookupError, TypeError):
        dropout = None
    sound = {
        "network_weights": isinstance(weights, dict) and all(isinstance(weight, Tensor) for weight in weights.values()),
        "trainer_name": isinstance(state.get("trainer_name"), str) and state["trainer_name"].isidentifier(),
        "inference_allowed_mirroring_axes": axes is None or (isinstance(axes, (list, tuple))
                                                             and all(type(axis) is int and axis in range(dimensions)
                                                                     for axis in axes)),
        "recipe": isinstance(dropout, (int, float)) and 0 <= dropout <= 1,
    }
    faulty = [entry for entry, is_sound in sound.items() if not is_sound]
    if faulty:
        raise CheckpointError(path, f"has no usable {', '.join(faulty)}. Give one that f4s_train wrote.")


def build_fitting(plans: PlansManager, configuration: ConfigurationManager, dataset_json: dict[str, Any], plans_file: Path, *,
                  weights: Mapping[Path, Weights]) -> FuseThenSegment:
    """The network that the plans describe, uninitialised.

    Args:
        plans: From :func:`~fuse4seg.inference.model_plans.read_model_plans`.
        configuration: One of its configurations.
        dataset_json: The model's.
        plans_file: Where the plans are from.
        weights: Of each checkpoint, by its file; one at least.

    Raises:
        ModelPlansError: No network can be built from the plans.
        CheckpointError: It is none of ours, or weights do not fit it.
    """
    # Without memory first: what plans ask for is bounded by the weights only once these are known to fit.
    with torch.device("meta"):
        outline = _build(plans, configuration, dataset_json, plans_file)
    if not isinstance(outline, FuseThenSegment):
        raise CheckpointError(next(iter(weights)), "is no model of Fuse4Seg. Predict with the tool that trained it.")
    expected = _shapes(outline.state_dict())
    for path, found in weights.items():
        if _shapes(found) != expected:
            raise CheckpointError(path, f"does not fit {plans_file}. Restore the plans it was trained with.")
    network = _build(plans, configuration, dataset_json, plans_file)
    for path, found in weights.items():
        try:
            network.load_state_dict(found)
        except (RuntimeError, TypeError) as error:
            raise CheckpointError(path, f"does not fit {plans_file}. Restore the plans it was trained with.") from error
    return network


def _shapes(weights: Weights) -> dict[str, torch.Size]:
    return {name: weight.shape for name, weight in weights.items()}


def _build(plans: PlansManager, configuration: ConfigurationManager, dataset_json: dict[str, Any], plans_file: Path) -> nn.Module:
    try:
        return build_network(plans, configuration, dataset_json)
    except Exception as error:
        reason = first_line(error, kind=True)
        made_by = (plans.plans.get(OURS) or {}).get("version", "unknown")
        # Other versions' networks have other arguments.
        mend = {"mend": "Plan and train again"} if isinstance(error, TypeError) else {}
        raise ModelPlansError(plans_file, f"describes no network that can be built ({reason}); it was made by version {made_by}, "
                                          f"this is {__version__}", **mend) from error

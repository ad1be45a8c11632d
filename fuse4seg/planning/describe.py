"""Plans in plain English."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from fuse4seg.plans import GPUS, OURS

#: Predicted memory of each configuration, under OURS.
MEMORY = "memory"


def describe_plans(plans: dict[str, Any]) -> list[str]:
    """One line per configuration: patch, batch, spacing in mm, features per stage and, where predicted, memory in GB."""
    manager, memory, gpus = PlansManager(plans), plans.get(OURS, {}).get(MEMORY, {}), plans.get(OURS, {}).get(GPUS, 1)
    return [_describe(name, manager.get_configuration(name).configuration, memory.get(name), gpus)
            for name in manager.available_configurations]


def crossed(sizes: Sequence[int]) -> str:
    """Extents in plain English: 8 x 16."""
    return " x ".join(map(str, sizes))


def _describe(name: str, configuration: dict[str, Any], memory: dict[str, float] | None, gpus: int) -> str:
    patch = crossed(configuration["patch_size"])
    spacing = " x ".join(f"{step:.3g}" for step in configuration["spacing"])
    architecture = configuration["architecture"]["arch_kwargs"]
    features = architecture.get("follower", {}).get("arch_kwargs", architecture).get("features_per_stage", [])
    # A follower whose stages are as published has none to tell.
    width = f", features {' '.join(map(str, features))}" if features else ""
    predicted = "" if memory is None else f", {memory['total']:.2f} GB"
    shared = ""
    if gpus > 1:
        predicted += " each" * (memory is not None)
        shared = f" on {gpus} GPUs"
    return (f"{name}: patch {patch}, batch {configuration['batch_size']}{shared}, spacing {spacing} mm"
            f"{width}{predicted}")

"""Plans: nnU-Net's, with the fusion network in front of the U-Net and counted in memory."""

from __future__ import annotations

import json
import logging
import math
import pydoc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.utilities.json_export import recursive_fix_for_json_export
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from fuse4seg import __version__
from fuse4seg.datasets.raw import channel_names, read_dataset_json, training_cases
from fuse4seg.errors import FingerprintNotFoundError, OptionError, PlansNotFoundError
from fuse4seg.files import make_writable_folder, write_json
from fuse4seg.networks.fusion import FusionNetwork
from fuse4seg.nnunet_output import logged_prints
from fuse4seg.paths import PREPROCESSED, RAW, data_root, dataset_name
from fuse4seg.planning.feature_maps import count_feature_map_voxels
from fuse4seg.planning.fingerprint import FINGERPRINT_FILE, WINDOWS, read_fingerprint

logger = logging.getLogger(__name__)

PLANS_NAME = "Fuse4SegPlans"
NETWORK = "fuse4seg.networks.fuse_then_segment.FuseThenSegment"
#: What a plans file says about how we made it stands under this key.
OURS = "fuse4seg"
PLANNED_CONFIGURATIONS = ("2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres")
#: nnU-Net's U-Nets start with 32 features and stop at 16 times as many in 2D, 10 times as many in 3D.
BASE_FEATURES, GROWTH_2D, GROWTH_3D = 32, 16, 10
SMALLEST_BASE_FEATURES, SMALLEST_BATCH = 4, 2
NO_PATCH = ("it leaves no patch that can be halved once. Give more memory or fewer --base_features, or larger images "
            "where they have fewer than 8 voxels along an axis.")


def plan_experiment(dataset: str | int, *, gpu_memory_target: float = 8.0, max_batch_size: int | None = None,
                    base_features: int = BASE_FEATURES, plans_name: str = PLANS_NAME,
                    overwrite_target_spacing: Sequence[float] | None = None) -> dict[str, Any]:
    """Write the plans of a fingerprinted dataset, and log one line per configuration.

    Args:
        dataset: Id or full name.
        gpu_memory_target: Gigabytes that training should fill.
        max_batch_size: Largest batch, at least 2.
        base_features: Features of the U-Net's first stage; the largest number scales along.
        plans_name: Name of the plans file, without its ending.
        overwrite_target_spacing: Millimetres between voxels along the image's three axes, instead of the median.

    Returns:
        The plans.

    Raises:
        OptionError: An argument is out of range, or no patch fits into the memory.
        FingerprintNotFoundError: There is no fingerprint with windows.
    """
    check_planning_options(gpu_memory_target=gpu_memory_target, max_batch_size=max_batch_size,
                           base_features=base_features, plans_name=plans_name,
                           overwrite_target_spacing=overwrite_target_spacing)
    planner = Fuse4SegPlanner(dataset, gpu_memory_target, plans_name=plans_name, max_batch_size=max_batch_size,
                              base_features=base_features, overwrite_target_spacing=overwrite_target_spacing)
    with logged_prints():
        plans = planner.plan_experiment()
    for line in describe_plans(plans):
        logger.info("%s", line)
    return plans


def check_planning_options(*, gpu_memory_target: float, max_batch_size: int | None, base_features: int, plans_name: str,
                           overwrite_target_spacing: Sequence[float] | None) -> None:
    """Refuse what :func:`plan_experiment` cannot plan with.

    Raises:
        OptionError: An argument is out of range; the message names the command's flag.
    """
    if not 0 < gpu_memory_target < math.inf:
        raise OptionError("-gpu_memory_target", f"{gpu_memory_target:g} GB is no memory. Give a number above 0.")
    if max_batch_size is not None and max_batch_size < SMALLEST_BATCH:
        raise OptionError("--max_batch_size", f"{max_batch_size} is too small. Give at least {SMALLEST_BATCH}: "
                                              f"fusion and segmentation each need a part of the batch.")
    if base_features < SMALLEST_BASE_FEATURES:
        raise OptionError("--base_features", f"{base_features} is too few. Give at least {SMALLEST_BASE_FEATURES}.")
    if not plans_name or "__" in plans_name or Path(plans_name).name != plans_name:
        problem = f"{plans_name!r} is no name for plans. Use letters, digits and single _."
        raise OptionError("-overwrite_plans_name", problem)
    spacing = overwrite_target_spacing
    if spacing is not None and (len(spacing) != 3 or not all(0 < step < math.inf for step in spacing)):
        problem = f"{' '.join(map(str, spacing))} is no spacing. Give three numbers above 0."
        raise OptionError("-overwrite_target_spacing", problem)


def read_plans(path: Path) -> dict[str, Any]:
    """Content of a plans file.

    Raises:
        PlansNotFoundError: It is missing or cannot be read.
    """
    try:
        plans = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise PlansNotFoundError(path) from error
    except (OSError, ValueError) as error:
        raise PlansNotFoundError(path, f"cannot be read ({error})") from error
    if not isinstance(plans, dict) or "configurations" not in plans:
        raise PlansNotFoundError(path, "holds no plans")
    return plans


def describe_plans(plans: dict[str, Any]) -> list[str]:
    """One line per configuration: patch, batch, spacing in mm and features per stage."""
    manager = PlansManager(plans)
    return [_describe(name, manager.get_configuration(name).configuration) for name in manager.available_configurations]


class Fuse4SegPlanner(ExperimentPlanner):
    """nnU-Net's planner for a network that fuses first.

    Args:
        dataset_name_or_id: Dataset with a fingerprint by :func:`~fuse4seg.planning.fingerprint.extract_fingerprint`.
        gpu_memory_target_in_gb: Gigabytes that training should fill.
        preprocessor_name: Class in nnU-Net's package.
        plans_name: Name of the plans file, without its ending.
        overwrite_target_spacing: Millimetres between voxels along the image's axes.
        suppress_transpose: Keep the axes in their order.
        max_batch_size: Largest batch, at least 2.
        base_features: Features of the U-Net's first stage.

    Raises:
        FingerprintNotFoundError: There is no fingerprint with one window per channel.
        OptionError: ``plans_name`` belongs to plans that are not ours.
    """

    def __init__(self, dataset_name_or_id: str | int, gpu_memory_target_in_gb: float = 8.0, *,
                 preprocessor_name: str = "DefaultPreprocessor", plans_name: str = PLANS_NAME,
                 overwrite_target_spacing: Sequence[float] | None = None, suppress_transpose: bool = False,
                 max_batch_size: int | None = None, base_features: int = BASE_FEATURES) -> None:
        name = dataset_name(dataset_name_or_id, variables=(RAW,))
        description = read_dataset_json(data_root(RAW) / name)
        training_cases(data_root(RAW) / name, description)
        self.folder = make_writable_folder(data_root(PREPROCESSED) / name)
        self.channels = channel_names(description)
        self.windows = self._read_windows()
        spacing = None if overwrite_target_spacing is None else [float(step) for step in overwrite_target_spacing]
        super().__init__(name, gpu_memory_target_in_gb, preprocessor_name, plans_name, spacing, suppress_transpose)
        self.old_plans = self._read_old_plans()
        self.max_batch_size = max_batch_size
        self.UNet_base_num_features = base_features
        self.UNet_max_features_2d = GROWTH_2D * base_features
        self.UNet_max_features_3d = GROWTH_3D * base_features

    @staticmethod
    def static_estimate_VRAM_usage(patch_size: Sequence[int], input_channels: int, output_channels: int,  # noqa: N802
                                   arch_class_name: str, arch_kwargs: dict[str, Any],
                                   arch_kwargs_req_import: Sequence[str]) -> int:
        """Feature map voxels of the fusion network on all channels, plus those of the U-Net on the fused one.

        Raises:
            OptionError: The patch became too small to be worth planning for.
        """
        if len(arch_kwargs["strides"]) < 2 or min(patch_size) < 1:
            raise OptionError("-gpu_memory_target", NO_PATCH)
        conv_op = pydoc.locate(arch_kwargs["conv_op"])
        with torch.device("meta"):
            follower = ExperimentPlanner.static_estimate_VRAM_usage(patch_size, 1, output_channels, arch_class_name,
                                                                    arch_kwargs, arch_kwargs_req_import)
            leader = FusionNetwork(input_channels, conv_op=conv_op, strides=arch_kwargs["strides"])
        return int(follower) + count_feature_map_voxels(leader, (input_channels, *map(int, patch_size)))

    def get_plans_for_configuration(self, spacing: np.ndarray, median_shape: Sequence[int], data_identifier: str,
                                    approximate_n_voxels_dataset: float, _cache: dict[str, int]) -> dict[str, Any]:
        """nnU-Net's plan of one configuration, its U-Net wrapped and its batch made even."""
        plan = super().get_plans_for_configuration(spacing, median_shape, data_identifier,
                                                   approximate_n_voxels_dataset, _cache)
        plan["batch_size"] = self._divisible_batch(plan["batch_size"])
        plan["architecture"] = self._fuse_then_segment(plan["architecture"])
        return plan

    def generate_data_identifier(self, configuration_name: str) -> str:
        """Folder of the preprocessed data: nnU-Net's own where ours would be the same."""
        differs = (configuration_name == "3d_lowres" or self.overwrite_target_spacing is not None
                   or self.preprocessor_name != "DefaultPreprocessor" or self.suppress_transpose)
        return f"{self.plans_identifier if differs else 'nnUNetPlans'}_{configuration_name}"

    def save_plans(self, plans: dict[str, Any]) -> None:
        """Write the plans; configurations that a user added to an older file are kept."""
        plans[OURS] = {"version": __version__, "gpu_memory_target_gb": self.UNet_vram_target_GB,
                       "max_batch_size": self.max_batch_size, "base_features": self.UNet_base_num_features,
                       "channel_names": self.channels}
        plans["configurations"].update(self._custom_configurations(plans["configurations"]))
        recursive_fix_for_json_export(plans)
        write_json(plans, self._plans_file)

    @property
    def _plans_file(self) -> Path:
        return self.folder / f"{self.plans_identifier}.json"

    def _read_windows(self) -> list[list[float]]:
        path = self.folder / FINGERPRINT_FILE
        windows = read_fingerprint(path)[WINDOWS]
        if set(windows) != {str(channel) for channel in range(len(self.channels))}:
            raise FingerprintNotFoundError(path, f"has {len(windows)} windows for {len(self.channels)} channels")
        return [[windows[str(channel)]["low"], windows[str(channel)]["high"]] for channel in range(len(self.channels))]

    def _read_old_plans(self) -> dict[str, Any]:
        if not self._plans_file.exists():
            return {"configurations": {}}
        try:
            old = read_plans(self._plans_file)
        except PlansNotFoundError as error:
            logger.warning("%s is replaced (%s)", self._plans_file, error.__cause__ or "it holds no plans")
            return {"configurations": {}}
        if OURS not in old:
            problem = f"{self._plans_file} was not made by this planner. Choose another name."
            raise OptionError("-overwrite_plans_name", problem)
        return old

    def _divisible_batch(self, planned: int) -> int:
        """Even, so that the two levels get disjoint halves (method.md, "Our reading")."""
        capped = planned if self.max_batch_size is None else min(planned, self.max_batch_size)
        return max(SMALLEST_BATCH, capped - capped % 2)

    def _fuse_then_segment(self, follower: dict[str, Any]) -> dict[str, Any]:
        follower = {**follower, "_kw_requires_import": list(follower["_kw_requires_import"])}
        # nnU-Net reads the strides at the top level.
        shared = {key: follower["arch_kwargs"][key] for key in ("strides", "conv_op")}
        return {"network_class_name": NETWORK, "arch_kwargs": {**shared, "windows": self.windows, "follower": follower},
                "_kw_requires_import": ["conv_op"]}

    def _custom_configurations(self, planned: dict[str, Any]) -> dict[str, Any]:
        custom = {name: configuration for name, configuration in self.old_plans["configurations"].items()
                  if name not in PLANNED_CONFIGURATIONS}
        while orphans := [name for name, configuration in custom.items()
                          if configuration.get("inherits_from", name) not in {**planned, **custom}]:
            for name in orphans:
                logger.warning("configuration %s is dropped: it inherits from %s, which is no longer planned",
                               name, custom.pop(name)["inherits_from"])
        return custom


def _describe(name: str, configuration: dict[str, Any]) -> str:
    patch = " x ".join(str(extent) for extent in configuration["patch_size"])
    spacing = " x ".join(f"{step:.3g}" for step in configuration["spacing"])
    architecture = configuration["architecture"]["arch_kwargs"]
    features = architecture.get("follower", {}).get("arch_kwargs", architecture).get("features_per_stage", [])
    return (f"{name}: patch {patch}, batch {configuration['batch_size']}, spacing {spacing} mm, "
            f"features {' '.join(str(count) for count in features)}")

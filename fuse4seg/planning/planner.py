"""Plans: nnU-Net's, with the fusion network in front of the follower and counted in memory."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from math import ceil, prod
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.utilities.json_export import recursive_fix_for_json_export

from fuse4seg import __version__
from fuse4seg.datasets.alignment import INFORMATION
from fuse4seg.datasets.dataset_json import REFERENCE, channel_names, declaration_kept, is_labelled, read_raw_dataset_json
from fuse4seg.datasets.images import find_reader
from fuse4seg.datasets.raw import examples, training_cases
from fuse4seg.errors import DatasetJsonError, FingerprintNotFoundError, OptionError, PlansNotFoundError, RecipeError
from fuse4seg.evaluation.volumes import FINGERPRINT
from fuse4seg.files import make_writable_folder, write_json
from fuse4seg.networks.follower import follower_kind
from fuse4seg.nnunet_output import logged_prints
from fuse4seg.paths import PREPROCESSED, RAW, data_root, dataset_name
from fuse4seg.planning.describe import MEMORY, crossed, describe_plans
from fuse4seg.planning.fingerprint import WINDOWS, read_fingerprint
from fuse4seg.planning.followers import follower_architecture, nnunet_planner
from fuse4seg.planning.leaders import leader_architecture, require_leader
from fuse4seg.planning.memory_model import MemoryModel
from fuse4seg.planning.memory_target import FLAG, GIGABYTE, MemoryTarget, find_target
from fuse4seg.planning.options import SMALLEST_BATCH, PlanOptions
from fuse4seg.planning.step_memory import CountedTraining
from fuse4seg.planning.windows import normalisation_names
from fuse4seg.plans import GPUS, NETWORK, OURS, PLANS_NAME, RECIPE, read_plans
from fuse4seg.recipes.reading import to_plain
from fuse4seg.recipes.recipe import WITH_LABELS, Recipe

logger = logging.getLogger(__name__)

CASCADE = "3d_cascade_fullres"
PLANNED_CONFIGURATIONS = ("2d", "3d_fullres", "3d_lowres", CASCADE)
#: nnU-Net's networks stop at 16 times the first stage's features in 2D, at 10 times as many in 3D.
GROWTH_2D, GROWTH_3D = 16, 10
#: A U-Net halves its input once at least.
SMALLEST_STAGES = 2


def plan_experiment(dataset: str | int, options: PlanOptions | None = None) -> dict[str, Any]:
    """Write the plans of a fingerprinted dataset, and log one line per configuration.

    Args:
        dataset: Id or full name.
        options: What the user chose; None for the defaults.

    Returns:
        The plans.

    Raises:
        OptionError: No patch fits into the memory, or the dataset has no such reference modality.
        FingerprintNotFoundError: There is no fingerprint with windows.
    """
    options = options or PlanOptions()
    planner = planner_for(dataset, options)
    with logged_prints(), declaration_kept(planner.folder, stated=planner.dataset_json):
        plans = planner.plan_experiment()
    for line in describe_plans(plans):
        logger.info("%s", line)
    which = "" if plans["plans_name"] == PLANS_NAME else f" -p {plans['plans_name']}"
    logger.info("recipe %s, plans %s. Train with: f4s_train %s %s 0%s", planner.recipe.name, plans["plans_name"], dataset,
                next(iter(plans["configurations"])), which)
    return plans


def planner_for(dataset: str | int, options: PlanOptions, planner: type[Fuse4SegPlanner] | None = None) -> Fuse4SegPlanner:
    """Our planner, or a variant of it, ready to plan a dataset by its recipe.

    Raises:
        RecipeError: The recipe segments, and the dataset has no labels.
        OptionError, DatasetJsonError, FingerprintNotFoundError: As :class:`Fuse4SegPlanner` raises them.
    """
    return planner_of(recipe_of(dataset, options).follower.network, planner)(dataset, options=options)


def recipe_of(dataset: str | int, options: PlanOptions) -> Recipe:
    """What a dataset would be planned by.

    Raises:
        RecipeError: The recipe segments, and the dataset has no labels.
        DatasetNotFoundError, DatasetJsonError: There is no such dataset, or it does not say what it is.
    """
    folder = data_root(RAW) / dataset_name(dataset, variables=(RAW,))
    labelled = is_labelled(folder, read_raw_dataset_json(folder))
    recipe = options.recipe_for(labelled=labelled)
    recipe.require_labels(labelled=labelled)
    return recipe


def planner_of(follower: str, planner: type[Fuse4SegPlanner] | None = None) -> type[Fuse4SegPlanner]:
    """Our planner, or a variant of it, on top of nnU-Net's planner of ``follower``, which lays out its stages."""
    return type(Fuse4SegPlanner.__name__, (planner or Fuse4SegPlanner, nnunet_planner(follower)), {})


def chosen_reference(recipe: Recipe, channels: Sequence[str]) -> int | None:
    """Index of the modality that a recipe names to ask the others; None where it names none.

    Raises:
        RecipeError: The dataset has no such modality.
    """
    chosen = recipe.leader.reference
    if chosen and chosen not in channels:
        raise RecipeError("leader.reference", _no_modality(chosen, channels), source=recipe.name)
    return channels.index(chosen) if chosen else None


def _no_modality(wanted: str, channels: Sequence[str]) -> str:
    return f"the dataset has no modality {wanted!r}. Name one of: {', '.join(channels)}."


class Fuse4SegPlanner(ExperimentPlanner):
    """nnU-Net's planner for a network that fuses first; by itself for the U-Net, see :func:`planner_of` for other followers.

    Args:
        dataset_name_or_id: Dataset with a fingerprint by :func:`~fuse4seg.planning.fingerprint.extract_fingerprint`.
        gpu_memory_target_in_gb, preprocessor_name, plans_name, overwrite_target_spacing, suppress_transpose: As nnU-Net
            gives them; ``options`` stand above them.
        options: What the user chose; None for the defaults.

    Raises:
        FingerprintNotFoundError: There is no fingerprint with one window per channel.
        OptionError: ``plans_name`` belongs to plans that are not ours.
        RecipeError: The recipe does not fit the dataset's labels or modalities.
        DatasetJsonError: dataset.json names a reference modality that the dataset lacks.
        ValueError: The recipe is for another follower.
    """

    def __init__(self, dataset_name_or_id: str | int, gpu_memory_target_in_gb: float | None = None,
                 preprocessor_name: str = "DefaultPreprocessor", plans_name: str = PLANS_NAME,
                 overwrite_target_spacing: Sequence[float] | None = None, suppress_transpose: bool = False, *,
                 options: PlanOptions | None = None) -> None:
        self.options = options or PlanOptions(gpu_memory_target=gpu_memory_target_in_gb, plans_name=plans_name,
                                              overwrite_target_spacing=overwrite_target_spacing)
        name = dataset_name(dataset_name_or_id, variables=(RAW,))
        description = read_raw_dataset_json(data_root(RAW) / name, allow_missing=self.options.allow_missing)
        self.cases = training_cases(data_root(RAW) / name, description)
        self.labelled = is_labelled(data_root(RAW) / name, description)
        self.channels = channel_names(description)
        self.recipe = self._fitting_recipe()
        self.kind = follower_kind(self.recipe.follower.network)
        if not isinstance(self, nnunet_planner(self.recipe.follower.network)):
            raise ValueError(f"{type(self).__name__} does not plan {self.recipe.follower.network}: use planner_of")
        self.reference = self._find_reference(description, data_root(RAW) / name / "dataset.json")
        self.folder = make_writable_folder(data_root(PREPROCESSED) / name)
        self.windows = self._read_windows()
        spacing = self.options.overwrite_target_spacing
        super().__init__(name, preprocessor_name=preprocessor_name, plans_name=self.options.name,
                         overwrite_target_spacing=None if spacing is None else [float(step) for step in spacing],
                         suppress_transpose=suppress_transpose)
        self.dataset_json = description
        self.target = self._find_target(self.UNet_vram_target_GB)
        self.memory = self._memory_model()
        self.predicted: dict[str, dict[str, float]] = {}
        self._let_nnunet_count_bytes()
        self._memory_was_short, self._asked = False, tuple[int, ...]()
        self._smallest: tuple[dict[str, Any], Sequence[int]] | None = None
        self.old_plans = self._read_old_plans()
        self._lay_out_as_the_follower_wants()

    def _lay_out_as_the_follower_wants(self) -> None:
        """Tell nnU-Net's planner what it knows of its own networks alone."""
        kind, features = self.kind, getattr(self.recipe.follower, "features", None)
        if features is not None:
            self.UNet_base_num_features = features
            self.UNet_max_features_2d, self.UNet_max_features_3d = GROWTH_2D * features, GROWTH_3D * features
        if kind.smallest_edge is not None:
            self.UNet_featuremap_min_edge_length = kind.smallest_edge

    def determine_reader_writer(self) -> type[BaseReaderWriter]:
        """By our cases: nnU-Net takes hidden files for some, too."""
        return find_reader(self.dataset_json, examples(self.cases.values()))

    def _find_target(self, usual: float) -> MemoryTarget:
        """Gigabytes to fill; ``usual`` is what nnU-Net plans the follower for."""
        return find_target(self.options.gpu_memory_target, otherwise=usual)

    def _memory_model(self) -> MemoryModel:
        return MemoryModel(CountedTraining(len(self.channels), len(self.dataset_json["labels"]), self.recipe))

    def _let_nnunet_count_bytes(self) -> None:
        """nnU-Net compares its estimate with reference values; make these the bytes of the target, for two samples."""
        # Not through the constructor: those of ResEnc warn about any memory but their own.
        self.UNet_vram_target_GB = self.UNet_reference_val_corresp_GB = self.target.gigabytes
        self.UNet_reference_val_2d = self.UNet_reference_val_3d = self.limit
        self.UNet_reference_val_corresp_bs_2d = self.UNet_reference_val_corresp_bs_3d = SMALLEST_BATCH

    @property
    def limit(self) -> float:
        """Bytes that training may take."""
        return self.target.gigabytes * GIGABYTE

    def static_estimate_VRAM_usage(self, patch_size: Sequence[int], input_channels: int, output_channels: int,  # noqa: N802
                                   arch_class_name: str, arch_kwargs: dict[str, Any],
                                   arch_kwargs_req_import: Sequence[str]) -> int:
        """nnU-Net's name for the bytes that training takes at a batch of two; not static here.

        Raises:
            OptionError: The patch became too small to be worth planning for; the message says what would fit.
            RecipeError: The recipe's patch is too small from the first.
        """
        if len(patch_size) not in self.kind.axes:
            return 1  # so that nnU-Net leaves the patch as it is; it divides by this
        if len(arch_kwargs["strides"]) < SMALLEST_STAGES or min(patch_size) < 1:
            if self._asked and self._smallest is None:
                raise RecipeError("patches.size", f"{crossed(self._asked)} cannot be halved once. Give a larger one.",
                                  source=self.recipe.name)
            raise OptionError(FLAG, self._what_would_fit())
        follower = {"network_class_name": arch_class_name, "arch_kwargs": arch_kwargs,
                    "_kw_requires_import": arch_kwargs_req_import}
        # Copied: nnU-Net goes on changing what it hands over.
        architecture = self._fuse_then_segment(deepcopy(follower))
        # nnU-Net comes from larger patches to smaller ones.
        self._smallest = architecture, list(patch_size)
        estimate = self.memory.estimate(architecture, patch_size, SMALLEST_BATCH, limit=self.limit)
        self._memory_was_short = self._memory_was_short or estimate > self.limit
        return estimate

    def _what_would_fit(self) -> str:
        if self._smallest is None:
            return ("no patch can be halved once, whatever the memory: the images need at least 8 voxels along an axis "
                    "(16 for cnn_transformer).")
        need = self.memory.count(*self._smallest, SMALLEST_BATCH).total
        # Up, so that it does fit.
        gigabytes = ceil(need * 1000 / GIGABYTE) / 1000
        return (f"{self.target.gigabytes:g} GB hold no patch. The smallest, {crossed(self._smallest[1])} in a "
                f"batch of {SMALLEST_BATCH}, would fit into {gigabytes:g} GB"
                f"{'' if self.kind.fixed else '; fewer follower.features take less'}.")

    def get_plans_for_configuration(self, spacing: np.ndarray, median_shape: Sequence[int], data_identifier: str,
                                    approximate_n_voxels_dataset: float, _cache: dict[str, int]) -> dict[str, Any]:
        """nnU-Net's plan of one configuration, its network wrapped; its batch is the largest that may be, not what fits."""
        wanted, given = self.recipe.patches, list(median_shape)
        axes = len(spacing)
        self._asked = fixed = wanted.size if len(wanted.size) == axes else ()
        self._memory_was_short, self._smallest = False, None
        # nnU-Net's patch is the whole image where that fits.
        plan = super().get_plans_for_configuration(spacing, np.array(fixed or given), data_identifier,
                                                   approximate_n_voxels_dataset, _cache)
        plan["median_image_size_in_voxels"] = np.array(given)
        if fixed and self._memory_was_short:
            logger.warning("patch %s of recipe %s is cut to %s: %g GB hold no more", crossed(fixed), self.recipe.name,
                           crossed(plan["patch_size"]), self.target.gigabytes)
        elif fixed and list(plan["patch_size"]) != list(fixed):
            raise RecipeError("patches.size", f"{crossed(fixed)} cannot be had with this network and spacing. Give "
                                              f"{crossed(plan['patch_size'])}.", source=self.recipe.name)
        share = round(approximate_n_voxels_dataset * self.max_dataset_covered / prod(map(int, plan["patch_size"])))
        plan["batch_size"] = wanted.batch or max(SMALLEST_BATCH, min(share, wanted.largest_batch or share))
        plan["architecture"] = self._fuse_then_segment(plan["architecture"])
        return plan

    def determine_normalization_scheme_and_whether_mask_is_used_for_norm(self) -> tuple[list[str], list[bool]]:
        """As nnU-Net, which knows channels by their names alone; dataset.json may name the normalisation apart."""
        stated = self.dataset_json
        self.dataset_json = {**stated, "channel_names": normalisation_names(stated)}
        try:
            return super().determine_normalization_scheme_and_whether_mask_is_used_for_norm()
        finally:
            self.dataset_json = stated

    def generate_data_identifier(self, configuration_name: str) -> str:
        """Folder of the preprocessed data: nnU-Net's own where ours would be the same."""
        differs = (configuration_name == "3d_lowres" or self.overwrite_target_spacing is not None
                   or self.preprocessor_name != "DefaultPreprocessor" or self.suppress_transpose)
        return f"{self.plans_identifier if differs else 'nnUNetPlans'}_{configuration_name}"

    def save_plans(self, plans: dict[str, Any]) -> None:
        """Fit the batches, and write the plans; configurations that a user added to an older file are kept."""
        self._drop_other_axes(plans["configurations"])
        self.predicted = self._fit_batches(plans["configurations"])
        plans[OURS] = {"version": __version__, "channel_names": self.channels, RECIPE: to_plain(self.recipe),
                       "overwrite_target_spacing": self.options.overwrite_target_spacing,
                       "gpu_memory_target": self.target.gigabytes, "gpu": self.target.gpu, GPUS: self.options.gpus,
                       MEMORY: self.predicted, INFORMATION: self.dataset_fingerprint.get(INFORMATION, {})}
        self._write(plans)

    def _write(self, plans: dict[str, Any]) -> None:
        if not self.recipe.segments:
            self._leave_segmentation_out(plans["configurations"])
        plans["configurations"].update(self._custom_configurations(plans["configurations"]))
        recursive_fix_for_json_export(plans)
        write_json(plans, self._plans_file)

    def _drop_other_axes(self, configurations: dict[str, Any]) -> None:
        """Of a follower that takes slices alone, say."""
        dropped = [name for name, plan in configurations.items()
                   if "patch_size" in plan and len(plan["patch_size"]) not in self.kind.axes]
        dropped += [name for name, plan in configurations.items() if plan.get("inherits_from") in dropped]
        for name in dropped:
            del configurations[name]
        if dropped:
            logger.warning("%s takes images of %s axes: not planned are %s", self.recipe.follower.network,
                           " or ".join(map(str, self.kind.axes)), ", ".join(dropped))

    def _leave_segmentation_out(self, configurations: dict[str, Any]) -> None:
        """Drop the cascade; without labels, let the preprocessed dataset.json name none."""
        if self.labelled:
            logger.warning("recipe %s segments nothing: models trained by it fuse images. For segmentations, plan with --recipe "
                           "%s.", self.recipe.name, WITH_LABELS)
        else:
            logger.warning("%s has no labelsTr: models trained on it fuse images and segment nothing. If it should have labels, "
                           "add them and plan again.", self.dataset_name)
        if configurations.pop(CASCADE, None):
            del configurations["3d_lowres"]["next_stage"]
        if not self.labelled:
            write_json(self.dataset_json, self.folder / "dataset.json")

    @property
    def _plans_file(self) -> Path:
        return self.folder / f"{self.plans_identifier}.json"

    def _fitting_recipe(self) -> Recipe:
        """The recipe, once it is sure that it fits the dataset; of one modality there is nothing for colours to tell apart."""
        recipe = self.options.recipe_for(labelled=self.labelled)
        recipe.require_labels(labelled=self.labelled)
        require_leader(recipe, self.channels)
        if len(self.channels) == 1 and recipe.leader.fused_image == "colour":
            logger.info("the dataset has one modality: its fused image is grey")
            return replace(recipe, leader=replace(recipe.leader, fused_image="grey"))
        return recipe

    def _find_reference(self, description: dict[str, Any], path: Path) -> int:
        """Index of the modality that the recipe, else dataset.json, names as the reference; else 0."""
        chosen = self.recipe.leader.reference
        if chosen and not getattr(self.recipe.leader, "cross_attention", False):
            raise RecipeError("leader.reference", f"{chosen} would ask the others in the cross-attention, which is left out. Set "
                                                  "leader.cross_attention=true, or leave it out.", source=self.recipe.name)
        index = chosen_reference(self.recipe, self.channels)
        if index is not None:
            return index
        wanted = description.get(REFERENCE, self.channels[0])
        if wanted not in self.channels:
            raise DatasetJsonError(path, f"{REFERENCE}: {_no_modality(wanted, self.channels)}")
        return self.channels.index(wanted)

    def _read_windows(self) -> list[list[float]]:
        path = self.folder / FINGERPRINT
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

    def _fit_batches(self, configurations: dict[str, Any]) -> dict[str, dict[str, float]]:
        """Make batches the largest that fit, even on each GPU: gauss_newton has halves. Returns each GPU's predicted memory."""
        predicted, gpus = {}, self.options.gpus
        for name, plan in configurations.items():
            if "architecture" not in plan:
                continue
            network = plan["architecture"], plan["patch_size"]
            most = plan["batch_size"]
            on_each = self.memory.largest_batch(*network, limit=self.limit, cap=most // gpus)
            plan["batch_size"] = batch = on_each * gpus
            if batch < self.recipe.patches.batch:
                logger.warning("%s: batch %d of recipe %s is cut to %d: %g GB hold no more%s", name, self.recipe.patches.batch,
                               self.recipe.name, batch, self.target.gigabytes, ", or it cannot be shared evenly" * (gpus > 1))
            if gpus > 1 and batch > most:
                logger.warning("%s: %d GPUs share %d samples at least, and %d suit the data. Use fewer", name, gpus, batch, most)
            predicted[name] = self.memory.count(*network, on_each).to_plain()
        return predicted

    def _fuse_then_segment(self, follower: dict[str, Any]) -> dict[str, Any]:
        # nnU-Net reads the strides at the top level.
        shared = {key: follower["arch_kwargs"][key] for key in ("strides", "conv_op")}
        arguments = {**shared, "windows": self.windows, "leader": leader_architecture(self.recipe, self.reference),
                     "follower": follower_architecture(self.recipe.follower, follower)}
        return {"network_class_name": NETWORK, "arch_kwargs": arguments, "_kw_requires_import": ["conv_op"]}

    def _custom_configurations(self, planned: dict[str, Any]) -> dict[str, Any]:
        custom = {name: configuration for name, configuration in self.old_plans["configurations"].items()
                  if name not in PLANNED_CONFIGURATIONS}
        while orphans := [name for name, configuration in custom.items()
                          if configuration.get("inherits_from", name) not in {**planned, **custom}]:
            for name in orphans:
                logger.warning("configuration %s is dropped: it inherits from %s, which is no longer planned",
                               name, custom.pop(name)["inherits_from"])
        return custom

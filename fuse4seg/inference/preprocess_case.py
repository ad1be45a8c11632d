"""A case as the network takes it: read once, checked, and preprocessed by nnU-Net."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.utilities.label_handling.label_handling import convert_labelmap_to_one_hot
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from fuse4seg.datasets.images import geometry_of
from fuse4seg.datasets.integrity import read_sound_images
from fuse4seg.datasets.raw import Case
from fuse4seg.errors import FaultyImageError
from fuse4seg.inference.model import Model
from fuse4seg.inference.previous_stage import previous_labels
from fuse4seg.inference.resampling import resampled
from fuse4seg.nnunet_output import logged_prints


@dataclass(frozen=True)
class Recipe:
    """What decides how cases are preprocessed and brought back; can be sent to another process."""

    plans: PlansManager
    configuration: ConfigurationManager
    dataset_json: dict[str, Any]

    @classmethod
    def of(cls, model: Model) -> Recipe:
        """That of a loaded model."""
        return cls(model.plans, model.configuration, model.dataset_json)


def found_files(case: Case) -> tuple[Path, ...]:
    """The images that the case has."""
    return tuple(compress(case.images, case.found))


def preprocessed_images(case: Case, recipe: Recipe, *,
                        previous: Path | np.ndarray | None = None) -> tuple[np.ndarray, dict[str, Any]]:
    """Channels (C, Z, Y, X) and nnU-Net's properties of a case with one existing image at least.

    Args:
        case: The case.
        recipe: The model's.
        previous: Segmentation of a cascade's previous stage on the case's grid, a file or label values (Z, Y, X). Its one-hot
            channels lie behind the modalities; without it there are none, which is enough to fuse.

    Raises:
        FaultyImageError: An image is unreadable, constant, NaN or infinite somewhere, not on the first one's grid, or flat where
            the model takes volumes.
        PreviousStageError: The segmentation cannot be used.
    """
    found = case.found
    voxels, properties = read_sound_images(replace(case, images=found_files(case)), recipe.plans.image_reader_writer_class)
    if voxels.shape[1] == 1 and len(recipe.configuration.patch_size) == 3:
        raise FaultyImageError(case.name, f"{found_files(case)[0]} is 2D, but the model segments volumes. Predict it with a 2D "
                                          f"configuration (-c 2d).")
    labels = None
    if previous is not None:
        labels = previous_labels(previous, case.name, expected=geometry_of(voxels.shape[1:], properties),
                                 reader=recipe.plans.image_reader_writer_class, dataset_json=recipe.dataset_json)
    # What stands in the channel of an absent modality does not matter; the first one's voxels leave the crop as it is.
    given = [with_absent(voxels, found)]
    del voxels
    return preprocess(given, properties, recipe, labels=labels)


def with_absent(voxels: np.ndarray, present: Sequence[bool]) -> np.ndarray:
    """Channels of all modalities from those that are there, (C, Z, Y, X); absent ones get the first one's voxels."""
    if all(present):
        return voxels
    places = np.cumsum(present) - 1
    return voxels[[int(place) if there else 0 for place, there in zip(places, present, strict=True)]]


def preprocess(given: list[np.ndarray], properties: dict[str, Any], recipe: Recipe, *,
               labels: np.ndarray | None = None) -> tuple[np.ndarray, dict[str, Any]]:
    """nnU-Net's preprocessing of images.

    Args:
        given: Holds one array (C, Z, Y, X), which is taken out: it is large, and only nnU-Net's copy of it is needed.
        properties: With the spacing, from nnU-Net's reader.
        recipe: The model's.
        labels: Of a cascade's previous stage, shape (1, Z, Y, X); they are cropped and resampled with the images.

    Returns:
        Channels in float32, shape (C, Z', Y', X'), behind them a cascade's labels, one-hot; and further properties.
    """
    preprocessor = recipe.configuration.preprocessor_class(verbose=False)
    sparing = (_WithoutMask if labels is None else _WithSparingResampling)(recipe.configuration)
    with logged_prints():
        channels, segmentation, properties = preprocessor.run_case_npy(given.pop(), labels, properties, recipe.plans, sparing,
                                                                       recipe.dataset_json)
    if labels is not None:
        # Large, and of use in training alone.
        properties.pop("class_locations")
        foreground = recipe.plans.get_label_manager(recipe.dataset_json).foreground_labels
        channels = np.concatenate([channels, convert_labelmap_to_one_hot(segmentation[0], foreground, channels.dtype)])
    return np.ascontiguousarray(channels), properties


class _WithSparingResampling:
    """A configuration whose resampling of images takes little memory."""

    def __init__(self, configuration: ConfigurationManager) -> None:
        self._configuration = configuration

    def __getattr__(self, name: str) -> Any:
        return getattr(self._configuration, name)

    def resampling_fn_data(self, images: np.ndarray, shape: Sequence[int], current: Sequence[float],
                           target: Sequence[float]) -> np.ndarray:
        return resampled(images, shape, current, target, resample=self._configuration.resampling_fn_data)


class _WithoutMask(_WithSparingResampling):
    """The same, and the mask, which prediction does not need, is left as it is."""

    def resampling_fn_seg(self, mask: np.ndarray, *_: Any) -> np.ndarray:
        return mask

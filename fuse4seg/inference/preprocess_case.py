"""A case as the network takes it: read once, checked, and preprocessed by nnU-Net."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import Tensor

from fuse4seg.datasets.integrity import read_sound_images
from fuse4seg.datasets.raw import Case
from fuse4seg.errors import FaultyImageError
from fuse4seg.inference.predictor import Fuse4SegPredictor
from fuse4seg.inference.resampling import resampled
from fuse4seg.nnunet_output import logged_prints


@dataclass(frozen=True)
class Recipe:
    """What decides how cases are preprocessed and brought back; can be sent to another process."""

    plans: PlansManager
    configuration: ConfigurationManager
    dataset_json: dict[str, Any]

    @classmethod
    def of(cls, predictor: Fuse4SegPredictor) -> Recipe:
        """That of a loaded model."""
        return cls(predictor.plans_manager, predictor.configuration_manager, predictor.dataset_json)


def found_files(case: Case) -> tuple[Path, ...]:
    """The images that the case has."""
    return tuple(compress(case.images, case.found))


def preprocess_case(predictor: Fuse4SegPredictor, case: Case) -> tuple[Tensor, dict[str, Any]]:
    """Channels (C, Z, Y, X) and nnU-Net's properties of a case; the predictor is told which modalities it has.

    Args:
        predictor: From ``load_predictor``.
        case: With one existing image at least.

    Raises:
        FaultyImageError: The images cannot be used.
    """
    predictor.forget()
    predictor.present = None if all(case.found) else case.found
    channels, properties = preprocessed_images(case, Recipe.of(predictor))
    return torch.from_numpy(channels), properties


def preprocessed_images(case: Case, recipe: Recipe) -> tuple[np.ndarray, dict[str, Any]]:
    """Channels (C, Z, Y, X) and nnU-Net's properties of a case with one existing image at least.

    Raises:
        FaultyImageError: An image is unreadable, constant, NaN or infinite somewhere, not on the first one's grid, or flat where
            the model takes volumes.
    """
    found = case.found
    voxels, properties = read_sound_images(replace(case, images=found_files(case)), recipe.plans.image_reader_writer_class)
    if voxels.shape[1] == 1 and len(recipe.configuration.patch_size) == 3:
        raise FaultyImageError(case.name, f"{found_files(case)[0]} is 2D, but the model segments volumes. Predict it with a 2D "
                                          f"configuration (-c 2d).")
    # What stands in the channel of an absent modality does not matter; the first one's voxels leave the crop as it is.
    given = [with_absent(voxels, found)]
    del voxels
    return preprocess(given, properties, recipe)


def with_absent(voxels: np.ndarray, present: Sequence[bool]) -> np.ndarray:
    """Channels of all modalities from those that are there, (C, Z, Y, X); absent ones get the first one's voxels."""
    if all(present):
        return voxels
    places = np.cumsum(present) - 1
    return voxels[[int(place) if there else 0 for place, there in zip(places, present, strict=True)]]


def preprocess(given: list[np.ndarray], properties: dict[str, Any], recipe: Recipe) -> tuple[np.ndarray, dict[str, Any]]:
    """nnU-Net's preprocessing of images.

    Args:
        given: Holds one array (C, Z, Y, X), which is taken out: it is large, and only nnU-Net's copy of it is needed.
        properties: With the spacing, from nnU-Net's reader.
        recipe: The model's.

    Returns:
        Channels in float32, shape (C, Z', Y', X'), and further properties.
    """
    preprocessor = recipe.configuration.preprocessor_class(verbose=False)
    with logged_prints():
        channels, _, properties = preprocessor.run_case_npy(given.pop(), None, properties, recipe.plans,
                                                            _WithSparingResampling(recipe.configuration), recipe.dataset_json)
    return np.ascontiguousarray(channels), properties


class _WithSparingResampling:
    """A configuration whose resampling takes little memory, and leaves out the mask, which prediction does not need."""

    def __init__(self, configuration: ConfigurationManager) -> None:
        self._configuration = configuration

    def __getattr__(self, name: str) -> Any:
        return getattr(self._configuration, name)

    def resampling_fn_data(self, images: np.ndarray, shape: Sequence[int], current: Sequence[float],
                           target: Sequence[float]) -> np.ndarray:
        return resampled(images, shape, current, target, resample=self._configuration.resampling_fn_data)

    def resampling_fn_seg(self, mask: np.ndarray, *_: Any) -> np.ndarray:
        return mask

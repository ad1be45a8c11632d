"""The fused image as its file holds it, and as the follower reads it from there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from acvl_utils.cropping_and_padding.bounding_boxes import get_bbox_from_mask
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from fuse4seg.colour import WHITE
from fuse4seg.inference.export import to_input_space
from fuse4seg.inference.resampling import resampled
from fuse4seg.networks.fuse_then_segment import DARKEST


def to_levels(fused: np.ndarray, properties: dict[str, Any], *, plans: PlansManager,
              configuration: ConfigurationManager) -> np.ndarray:
    """What is exported of an image that was fused in preprocessed space.

    Args:
        fused: In [0, 1], 0 outside, shape (C, Z, Y, X).
        properties: The case's, as nnU-Net's preprocessor left them.
        plans: The model's.
        configuration: The model's.

    Returns:
        uint8, shape (C, *input shape); 0 outside the image, DARKEST to WHITE inside.
    """
    placed = to_input_space(fused, properties, plans=plans, configuration=configuration)
    inside = (placed > 0).any(axis=0)
    np.multiply(placed, WHITE, out=placed)
    return np.clip(np.rint(placed, out=placed), DARKEST, WHITE).astype(np.uint8) * inside


def read_levels(levels: np.ndarray, spacing: Sequence[float], *, plans: PlansManager,
                configuration: ConfigurationManager) -> tuple[np.ndarray, dict[str, Any]]:
    """What the follower sees of an exported fused image: cropped to what is not 0, and resampled as the plans say.

    Args:
        levels: uint8, shape (C, Z, Y, X).
        spacing: Millimetres along Z, Y, X.
        plans: The model's.
        configuration: The model's.

    Returns:
        float32 in [0, 1], shape (C, Z', Y', X'), and what brings logits on that grid back, as nnU-Net's preprocessor names it.

    Source: nnU-Net's preprocessing (Isensee et al., 2021), without normalisation.
    """
    turned = levels.transpose([0, *[axis + 1 for axis in plans.transpose_forward]])
    current = [spacing[axis] for axis in plans.transpose_forward]
    shape, inside = turned.shape[1:], turned.any(axis=0)
    box = get_bbox_from_mask(inside) if inside.any() else [[0, extent] for extent in shape]
    cropped = turned[(slice(None), *(slice(*ends) for ends in box))]
    target = [*current[:len(shape) - len(configuration.spacing)], *configuration.spacing]
    wanted = tuple(int(extent) for extent in compute_new_shape(cropped.shape[1:], current, target))
    properties = {"spacing": list(spacing), "shape_before_cropping": shape, "bbox_used_for_cropping": box,
                  "shape_after_cropping_and_before_resampling": cropped.shape[1:]}
    if wanted == cropped.shape[1:]:
        return np.divide(cropped, WHITE, dtype=np.float32), properties
    image = resampled(cropped.astype(np.float32), wanted, current, target, resample=configuration.resampling_fn_data)
    there = resampled(cropped.any(axis=0, keepdims=True).astype(np.float32), wanted, current, target,
                      resample=configuration.resampling_fn_probabilities)
    return np.clip(image / WHITE, 0, 1) * (there > 0.5), properties

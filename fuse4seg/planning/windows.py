"""How the intensities of each channel are normalised, and the window that is shown: percentiles of normalised tissue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from nnunetv2.preprocessing.normalization.default_normalization_schemes import (
    CTNormalization,
    ImageNormalization,
    RescaleTo01Normalization,
    RGBTo01Normalization,
)
from nnunetv2.preprocessing.normalization.map_channel_name_to_normalization import get_normalization_scheme
from numpy.typing import NDArray

from fuse4seg.colour import window_of
from fuse4seg.datasets.dataset_json import NORMALISATION, channel_names

VOXELS_PER_CHANNEL = 2_000_000
SEED = 1234

Scheme = type[ImageNormalization]
#: Their images have a scale of their own, which is shown as it is.
DISPLAYABLE = (RescaleTo01Normalization, RGBTo01Normalization)
#: Intensities of one channel in one case, by nnU-Net's use_mask_for_norm.
Samples = dict[bool, NDArray[np.float32]]


def sample_tissue(images: NDArray, segmentation: NDArray, *, schemes: Sequence[Scheme], limit: int) -> list[Samples]:
    """Draw normalised tissue intensities of one case, the same voxels in every channel.

    Whether a dataset is normalised inside a mask is known only when all its cases are, so both variants are drawn where
    that matters. Schemes that need statistics of the dataset give raw intensities.

    Args:
        images: Cropped raw images, shape (N, *S), float32.
        segmentation: nnU-Net's cropped label with -1 outside the nonzero mask, shape (1, *S). Tissue is the rest.
        schemes: nnU-Net's normalisation of each channel.
        limit: Voxels to draw; all are taken where there are no more than this.

    Returns:
        Per channel, the intensities by use_mask_for_norm.
    """
    tissue = np.flatnonzero(segmentation[0] >= 0)
    if len(tissue) > limit:
        tissue = tissue[np.random.default_rng(SEED).integers(len(tissue), size=limit)]
    return [{use_mask: _normalise_case(image, segmentation[0], scheme, use_mask=use_mask).reshape(-1)[tissue]
             for use_mask in mask_choices(scheme)}
            for image, scheme in zip(images, schemes, strict=True)]


def intensity_windows(cases: Sequence[Sequence[Samples]], *, schemes: Sequence[Scheme], use_mask: Sequence[bool],
                      statistics: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Windows of all channels, pooled over the cases.

    Args:
        cases: What :func:`sample_tissue` gave for each case.
        schemes: nnU-Net's normalisation of each channel.
        use_mask: nnU-Net's decision for each channel.
        statistics: nnU-Net's foreground intensity properties of each channel.

    Returns:
        ``{"0": {"low": ..., "high": ...}, ...}`` in normalised intensities, low below high.
    """
    windows = {}
    for channel, (scheme, masked, properties) in enumerate(zip(schemes, use_mask, statistics, strict=True)):
        pooled = np.concatenate([case[channel][masked] for case in cases])
        if needs_dataset_statistics(scheme):
            pooled = scheme(use_mask_for_norm=masked, intensityproperties=dict(properties)).run(pooled)
        low, high = (0.0, 1.0) if issubclass(scheme, DISPLAYABLE) else window_of(pooled)
        windows[str(channel)] = {"low": low, "high": high}
    return windows


def needs_dataset_statistics(scheme: Scheme) -> bool:
    """Whether a normalisation is the same function for all cases, made from the intensities of all of them."""
    return issubclass(scheme, CTNormalization)


def mask_choices(scheme: Scheme) -> tuple[bool, ...]:
    """Values that nnU-Net may give use_mask_for_norm under ``scheme``."""
    return (False, True) if scheme.leaves_pixels_outside_mask_at_zero_if_use_mask_for_norm_is_true else (False,)


def _normalise_case(image: NDArray, segmentation: NDArray, scheme: Scheme, *, use_mask: bool) -> NDArray:
    if needs_dataset_statistics(scheme) or (use_mask and not (segmentation >= 0).any()):
        return image
    # nnU-Net normalises in place.
    return scheme(use_mask_for_norm=use_mask, intensityproperties={}).run(image.astype(np.float32), segmentation)


def normalisation_names(dataset_json: dict[str, Any]) -> dict[str, str]:
    """What to look nnU-Net's normalisation up by, for each channel "0", "1", ...

    Args:
        dataset_json: Validated. Its entry ``normalization`` may name the scheme of channels that are called otherwise.
    """
    chosen = dataset_json.get(NORMALISATION, {})
    return {str(number): chosen.get(str(number), name) for number, name in enumerate(channel_names(dataset_json))}


def normalisation_schemes(dataset_json: dict[str, Any]) -> list[Scheme]:
    """nnU-Net's normalisation of each channel."""
    return [get_normalization_scheme(name) for name in normalisation_names(dataset_json).values()]

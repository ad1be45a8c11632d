"""Which of nnU-Net's normalisations each channel gets: by its name, as in nnU-Net, or as dataset.json says."""

from __future__ import annotations

from typing import Any

from nnunetv2.preprocessing.normalization.map_channel_name_to_normalization import get_normalization_scheme

from fuse4seg.datasets.raw import NORMALISATION, channel_names
from fuse4seg.planning.windows import Scheme


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

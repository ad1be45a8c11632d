"""Normalisation of each channel: by its name as in nnU-Net, or as dataset.json says."""

from __future__ import annotations

from nnunetv2.preprocessing.normalization.default_normalization_schemes import (
    CTNormalization,
    RGBTo01Normalization,
    ZScoreNormalization,
)

from fuse4seg.planning.normalisation import normalisation_names, normalisation_schemes

CHANNELS = {"0": "MRI", "1": "CT"}


def test_goes_by_the_channels_names() -> None:
    assert normalisation_names({"channel_names": CHANNELS}) == CHANNELS
    assert normalisation_schemes({"channel_names": CHANNELS}) == [ZScoreNormalization, CTNormalization]


def test_goes_by_what_dataset_json_says_where_it_does() -> None:
    stated = {"channel_names": CHANNELS, "normalization": {"1": "rgb_to_0_1"}}
    assert normalisation_schemes(stated) == [ZScoreNormalization, RGBTo01Normalization]

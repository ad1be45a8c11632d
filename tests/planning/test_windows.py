"""Normalisation and intensity window of each channel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunetv2.preprocessing.normalization.default_normalization_schemes import (
    CTNormalization,
    NoNormalization,
    RescaleTo01Normalization,
    RGBTo01Normalization,
    ZScoreNormalization,
)
from scipy.stats import scoreatpercentile

from fuse4seg.planning.windows import intensity_windows, normalisation_names, normalisation_schemes, sample_tissue, window_of

STATISTICS = {"mean": 40.0, "std": 20.0, "percentile_00_5": -10.0, "percentile_99_5": 90.0}
FLOATS = st.floats(-2.0**90, 2.0**90, width=32)


@pytest.fixture
def case() -> tuple[np.ndarray, np.ndarray]:
    """Two channels, the left half outside the nonzero mask."""
    images = np.random.default_rng(1).normal(50, 30, (2, 8, 10, 10)).astype(np.float32)
    segmentation = np.zeros((1, 8, 10, 10), np.int8)
    segmentation[..., :5] = -1
    segmentation[..., 7] = 2
    images[:, segmentation[0] < 0] = 0
    return images, segmentation


class TestWindowOf:
    def test_gives_the_half_and_the_999th_thousandth_percentile(self) -> None:
        intensities = np.random.default_rng(0).normal(size=5000)

        assert window_of(intensities) == pytest.approx(scoreatpercentile(intensities, (0.5, 99.9)))

    def test_starts_at_the_intensity_of_a_constant_channel(self) -> None:
        assert window_of(np.full(10, 3.0, np.float32)) == (3.0, 4.0)

    def test_of_nothing_is_zero_to_one(self) -> None:
        assert window_of(np.array([])) == (0.0, 1.0)

    @settings(deadline=None, max_examples=50)
    @given(st.lists(FLOATS, min_size=1, max_size=5))
    def test_is_never_empty_in_single_precision(self, intensities: list[float]) -> None:
        low, high = window_of(np.array(intensities, np.float32))

        assert np.float32(low) < np.float32(high)


class TestSampleTissue:
    def test_normalises_by_the_mask_and_by_the_whole_image(self, case: tuple[np.ndarray, np.ndarray]) -> None:
        images, segmentation = case
        tissue = images[0][segmentation[0] >= 0]

        samples = sample_tissue(images, segmentation, schemes=[ZScoreNormalization] * 2, limit=10**6)[0]

        np.testing.assert_allclose(samples[True], (tissue - tissue.mean()) / tissue.std(), atol=1e-5)
        np.testing.assert_allclose(samples[False], (tissue - images[0].mean()) / images[0].std(), atol=1e-5)

    def test_draws_the_same_voxels_again_and_in_every_channel(self, case: tuple[np.ndarray, np.ndarray]) -> None:
        images = np.stack([case[0][0]] * 2)

        first, second = (sample_tissue(images, case[1], schemes=[NoNormalization] * 2, limit=30) for _ in range(2))

        assert first[0][False].shape == (30,)
        np.testing.assert_array_equal(first[0][False], first[1][False])
        np.testing.assert_array_equal(first[0][False], second[0][False])

    def test_leaves_the_images_as_they_are(self, case: tuple[np.ndarray, np.ndarray]) -> None:
        images = case[0].copy()

        sample_tissue(images, case[1], schemes=[ZScoreNormalization, RescaleTo01Normalization], limit=30)

        np.testing.assert_array_equal(images, case[0])

    def test_of_a_case_without_tissue_is_empty(self, case: tuple[np.ndarray, np.ndarray]) -> None:
        samples = sample_tissue(case[0], np.full_like(case[1], -1), schemes=[ZScoreNormalization] * 2, limit=30)

        assert [drawn.size for drawn in samples[0].values()] == [0, 0]


class TestIntensityWindows:
    def test_takes_the_variant_that_nnunet_decided_for(self, case: tuple[np.ndarray, np.ndarray]) -> None:
        schemes = [ZScoreNormalization] * 2
        samples = sample_tissue(*case, schemes=schemes, limit=10**6)

        windows = intensity_windows([samples], schemes=schemes, use_mask=[True, False], statistics=[STATISTICS] * 2)

        assert tuple(windows["0"].values()) == window_of(samples[0][True])
        assert tuple(windows["1"].values()) == window_of(samples[1][False])

    def test_normalises_ct_by_the_statistics_of_the_dataset(self, case: tuple[np.ndarray, np.ndarray]) -> None:
        images, segmentation = case
        samples = sample_tissue(images, segmentation, schemes=[CTNormalization] * 2, limit=10**6)
        clipped = (np.clip(images[1][segmentation[0] >= 0], -10, 90) - 40) / 20

        windows = intensity_windows([samples], schemes=[CTNormalization] * 2, use_mask=[False] * 2,
                                    statistics=[STATISTICS] * 2)

        assert tuple(windows["1"].values()) == pytest.approx(np.percentile(clipped, (0.5, 99.9)), abs=1e-5)

    def test_pools_the_cases(self) -> None:
        cases = [[{False: np.zeros(50, np.float32)}], [{False: np.full(50, 7, np.float32)}]]

        windows = intensity_windows(cases, schemes=[NoNormalization], use_mask=[False], statistics=[STATISTICS])

        assert windows == {"0": {"low": 0.0, "high": 7.0}}


def test_the_window_of_images_with_a_scale_of_their_own_is_that_scale(case: tuple[np.ndarray, np.ndarray]) -> None:
    images, segmentation = np.clip(case[0], 20, 80), case[1]
    schemes = [RGBTo01Normalization, RescaleTo01Normalization]
    samples = sample_tissue(images, segmentation, schemes=schemes, limit=1000)
    windows = intensity_windows([samples], schemes=schemes, use_mask=[False, False], statistics=[STATISTICS] * 2)
    assert windows == {"0": {"low": 0.0, "high": 1.0}, "1": {"low": 0.0, "high": 1.0}}


CHANNELS = {"0": "MRI", "1": "CT"}


def test_goes_by_the_channels_names() -> None:
    assert normalisation_names({"channel_names": CHANNELS}) == CHANNELS
    assert normalisation_schemes({"channel_names": CHANNELS}) == [ZScoreNormalization, CTNormalization]


def test_goes_by_what_dataset_json_says_where_it_does() -> None:
    stated = {"channel_names": CHANNELS, "normalization": {"1": "rgb_to_0_1"}}
    assert normalisation_schemes(stated) == [ZScoreNormalization, RGBTo01Normalization]

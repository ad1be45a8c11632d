"""Foreground statistics: the draws of nnU-Net, counted instead of copied."""

from __future__ import annotations

import numpy as np
import pytest
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor

from fuse4seg.planning.foreground import Draws, draw_foreground, foreground_statistics

DRAWS = 600_000


@pytest.fixture
def case() -> tuple[np.ndarray, np.ndarray]:
    """Two channels and a label with a hundred or so foreground voxels."""
    random = np.random.default_rng(3)
    return random.normal(size=(2, 6, 12, 10)).astype(np.float32), (random.random((1, 6, 12, 10)) > 0.8).astype(np.int8)


class TestDrawForeground:
    def test_draws_what_nnunet_draws(self, case: tuple[np.ndarray, np.ndarray]) -> None:
        stock, _ = DatasetFingerprintExtractor.collect_foreground_intensities(case[1], case[0], num_samples=DRAWS)

        ours = draw_foreground(*case, draws=DRAWS)

        for theirs, drawn in zip(stock, ours, strict=True):
            np.testing.assert_array_equal(np.sort(np.repeat(drawn.intensities, drawn.counts)), np.sort(theirs))

    def test_leaves_out_what_was_never_drawn(self, case: tuple[np.ndarray, np.ndarray]) -> None:
        drawn = draw_foreground(*case, draws=5)[0]

        assert drawn.counts.sum() == 5
        assert drawn.counts.min() >= 1

    def test_is_empty_without_foreground(self, case: tuple[np.ndarray, np.ndarray]) -> None:
        assert [len(drawn.counts) for drawn in draw_foreground(case[0], np.zeros_like(case[1]), draws=5)] == [0, 0]


class TestForegroundStatistics:
    def test_equal_those_of_the_repeated_intensities(self, case: tuple[np.ndarray, np.ndarray]) -> None:
        drawn = draw_foreground(*case, draws=1001)[0]
        repeated = np.repeat(drawn.intensities, drawn.counts).astype(np.float64)

        statistics = foreground_statistics([drawn])

        assert statistics == pytest.approx({
            "mean": repeated.mean(), "median": np.median(repeated), "std": repeated.std(), "min": repeated.min(),
            "max": repeated.max(), "percentile_99_5": np.percentile(repeated, 99.5),
            "percentile_00_5": np.percentile(repeated, 0.5)})

    def test_pool_the_cases_and_pass_over_empty_ones(self) -> None:
        cases = [Draws(np.array(intensities, np.float32), np.array(counts, np.int64))
                 for intensities, counts in (([4], [3]), ([], []), ([0], [1]))]

        assert foreground_statistics(cases)["mean"] == 3.0
        assert foreground_statistics(cases)["median"] == 4.0

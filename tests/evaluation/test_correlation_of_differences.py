"""SCD against a loop written from the formula, and its laws."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fuse4seg.evaluation.correlation_of_differences import correlation_of_differences


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Pearson's r, voxel by voxel."""
    pairs = list(zip(first.ravel().tolist(), second.ravel().tolist(), strict=True))
    means = [sum(values) / len(pairs) for values in zip(*pairs, strict=True)]
    covariance = sum((a - means[0]) * (b - means[1]) for a, b in pairs)
    spread = [math.fsum((pair[k] - means[k])**2 for pair in pairs) for k in (0, 1)]
    return covariance / math.sqrt(spread[0] * spread[1])


def test_is_that_of_the_formula(fused: np.ndarray, sources: list[np.ndarray]) -> None:
    first, second = sources
    expected = correlation(first, fused - second) + correlation(second, fused - first)
    assert correlation_of_differences(fused, sources) == pytest.approx(expected, abs=1e-10)
    assert correlation_of_differences(fused, sources[::-1]) == pytest.approx(expected, abs=1e-10)


def test_of_the_sum_of_the_sources_is_two(sources: list[np.ndarray]) -> None:
    halves = [source / 2 for source in sources]
    assert correlation_of_differences(halves[0] + halves[1], halves) == pytest.approx(2.0)


def test_is_not_defined_for_a_copy(sources: list[np.ndarray]) -> None:
    assert math.isnan(correlation_of_differences(sources[0], sources))


def test_of_three_sources_is_the_mean_over_pairs(fused: np.ndarray, sources: list[np.ndarray]) -> None:
    three = [*sources, 255 - sources[0]]
    pairs = [correlation_of_differences(fused, [three[one], three[other]]) for one, other in ((0, 1), (0, 2), (1, 2))]
    assert correlation_of_differences(fused, three) == pytest.approx(np.mean(pairs))

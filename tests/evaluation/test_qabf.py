"""Qabf against a loop written from the formula, and its laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fuse4seg.evaluation.qabf import qabf

IMAGES = arrays(np.uint8, (6, 7), elements=st.integers(0, 255))


def edge(image: np.ndarray, row: int, column: int) -> tuple[float, float]:
    """Strength and orientation at a voxel, 0 around the image."""
    padded = np.pad(image, 1).astype(float)
    around = padded[row:row + 3, column:column + 3]
    across = sum(weight * (around[k, 2] - around[k, 0]) for k, weight in enumerate((1, 2, 1)))
    down = sum(weight * (around[2, k] - around[0, k]) for k, weight in enumerate((1, 2, 1)))
    return math.hypot(across, down), math.atan(down / across) if across else math.pi / 2


def slow(fused: np.ndarray, first: np.ndarray, second: np.ndarray) -> float:
    kept = whole = 0.0
    for row, column in np.ndindex(*fused.shape):
        strength, orientation = edge(fused, row, column)
        for source in (first, second):
            weight, angle = edge(source, row, column)
            if not weight:
                continue
            relative = strength / weight if weight > strength else weight / strength
            aligned = 1 - abs(angle - orientation) / (math.pi / 2)
            kept += weight * .9994 / (1 + math.exp(-15 * (relative - .5))) * .9879 / (1 + math.exp(-22 * (aligned - .8)))
            whole += weight
    return kept / whole


def test_is_that_of_the_formula(fused: np.ndarray, sources: list[np.ndarray]) -> None:
    assert qabf(fused, sources) == pytest.approx(slow(fused, *sources), abs=1e-9)


def test_of_equal_images_is_what_the_sigmoids_give_for_1(sources: list[np.ndarray]) -> None:
    expected = .9994 / (1 + math.exp(-7.5)) * .9879 / (1 + math.exp(-4.4))
    assert qabf(sources[0], [sources[0]] * 2) == pytest.approx(expected)


@given(IMAGES, IMAGES, IMAGES)
def test_lies_between_0_and_1_and_is_symmetric_in_the_sources(fused: np.ndarray, first: np.ndarray, second: np.ndarray) -> None:
    value = qabf(fused, [first, second])
    if first.any() or second.any():
        assert 0 <= value <= 1
        assert value == pytest.approx(qabf(fused, [second, first]), abs=1e-12)
    else:
        assert math.isnan(value)


def test_of_three_sources_is_the_mean_over_pairs(fused: np.ndarray, sources: list[np.ndarray]) -> None:
    three = [*sources, 255 - sources[0]]
    pairs = [slow(fused, three[one], three[other]) for one, other in ((0, 1), (0, 2), (1, 2))]
    assert qabf(fused, three) == pytest.approx(np.mean(pairs), abs=1e-9)

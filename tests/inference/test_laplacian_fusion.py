"""Laplacian fusion: exact reconstruction, strongest detail, order, odd sizes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuse4seg.inference.laplacian_fusion import laplacian_fusion, strongest


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 9))
def test_equal_sources_give_that_source(height: int, width: int, seed: int) -> None:
    image = np.random.default_rng(seed).uniform(0, 255, (height, width))
    np.testing.assert_allclose(laplacian_fusion(np.stack([image, image])), image, atol=1e-9)


def test_does_not_depend_on_the_order_of_sources() -> None:
    sources = np.random.default_rng(0).uniform(0, 255, (3, 33, 40))
    np.testing.assert_allclose(laplacian_fusion(sources[::-1]), laplacian_fusion(sources), atol=1e-9)


def test_keeps_a_dot_of_one_source_on_the_flat_ground_of_the_other() -> None:
    dot = np.full((64, 64), 100.0)
    dot[32, 32] = 200
    fused = laplacian_fusion(np.stack([dot, np.full((64, 64), 100.0)]))
    # All of the dot but half of what is left of it below the bands.
    assert fused[32, 32] == pytest.approx(200, abs=1)
    assert fused[0, 0] == pytest.approx(100, abs=1)


def test_the_strongest_coefficient_keeps_its_sign_and_ties_give_the_mean() -> None:
    np.testing.assert_array_equal(strongest(np.array([[1.0, 2, -3], [-4.0, 1, 3]])), [-4, 2, 0])

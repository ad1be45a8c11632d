"""Wavelet fusion: exact reconstruction, order, odd sizes, and the mean where nothing but brightness differs."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fuse4seg.inference.wavelet_fusion import wavelet_fusion


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 70), st.integers(2, 70), st.integers(0, 9))
def test_equal_sources_give_that_source(height: int, width: int, seed: int) -> None:
    image = np.random.default_rng(seed).uniform(0, 255, (height, width))
    fused = wavelet_fusion(np.stack([image, image]))
    np.testing.assert_allclose(fused, image, atol=1e-9)


def test_does_not_depend_on_the_order_of_sources() -> None:
    sources = np.random.default_rng(0).uniform(0, 255, (3, 33, 40))
    np.testing.assert_allclose(wavelet_fusion(sources[::-1]), wavelet_fusion(sources), atol=1e-9)


def test_sources_that_differ_in_brightness_alone_give_the_mean_brightness() -> None:
    image = np.random.default_rng(0).uniform(0, 200, (48, 48))
    np.testing.assert_allclose(wavelet_fusion(np.stack([image, image + 40])), image + 20, atol=1e-9)

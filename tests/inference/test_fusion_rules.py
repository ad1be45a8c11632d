"""Fusion rules: maximum, mean and colour by hand, exact reconstruction by pyramids and wavelets, slices, order and range."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuse4seg.inference.fusion_rules import RULES, fuse_by_rule, laplacian_fusion, strongest, wavelet_fusion

#: Hues of two modalities, orange and blue, as method.md has them.
ORANGE, BLUE = np.array([0.91, 0.55, 0.11]), np.array([0.09, 0.45, 0.89])


@pytest.fixture
def sources() -> list[np.ndarray]:
    """Two uint8 volumes with black and white in them."""
    random = np.random.default_rng(0)
    return [random.choice([0, 90, 255], (3, 40, 44)).astype(np.uint8) for _ in range(2)]


def test_maximum_and_mean(sources: list[np.ndarray]) -> None:
    np.testing.assert_array_equal(fuse_by_rule(sources, "max"), np.maximum(*sources)[None])
    np.testing.assert_array_equal(fuse_by_rule(sources, "mean"), (sources[0] / 2 + sources[1] / 2)[None])


def test_colour_mixes_the_sources_by_their_hues_shares(sources: list[np.ndarray]) -> None:
    """In each channel a modality's share is its hue's."""
    found = fuse_by_rule(sources, "colour")
    expected = ORANGE.reshape(3, 1, 1, 1) * sources[0] + BLUE.reshape(3, 1, 1, 1) * sources[1]
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("modalities", [1, 2, 3, 4])
def test_colour_of_equal_sources_is_grey(sources: list[np.ndarray], modalities: int) -> None:
    found = fuse_by_rule([sources[0]] * modalities, "colour")
    np.testing.assert_allclose(found, np.broadcast_to(sources[0], found.shape), atol=1e-4)


def test_colour_shows_the_first_modality_in_red_and_the_last_in_blue() -> None:
    """Each alone, and the middle one of three greener than these."""
    bright, black = np.full((8, 8), 255, np.uint8), np.zeros((8, 8), np.uint8)
    first, middle, last = (fuse_by_rule([bright if index == lit else black for index in range(3)], "colour")[:, 0, 0]
                           for lit in range(3))
    assert first.argmax() == 0
    assert last.argmax() == 2
    assert middle[1] > max(first[1], last[1])


@pytest.mark.parametrize("rule", RULES)
def test_volumes_are_fused_slice_by_slice(sources: list[np.ndarray], rule: str) -> None:
    slices = [fuse_by_rule([source[index] for source in sources], rule) for index in range(3)]
    assert slices[0].shape == (3 if rule == "colour" else 1, 40, 44)
    np.testing.assert_allclose(fuse_by_rule(sources, rule), np.stack(slices, axis=1), atol=1e-9)


@pytest.mark.parametrize("rule", RULES)
def test_never_leaves_the_range_of_grey_levels(sources: list[np.ndarray], rule: str) -> None:
    fused = fuse_by_rule(sources, rule)
    assert 0 <= fused.min() <= fused.max() <= 255


class TestLaplacianFusion:
    @settings(max_examples=20, deadline=None)
    @given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 9))
    def test_equal_sources_give_that_source(self, height: int, width: int, seed: int) -> None:
        image = np.random.default_rng(seed).uniform(0, 255, (height, width))
        np.testing.assert_allclose(laplacian_fusion(np.stack([image, image])), image, atol=1e-9)

    def test_does_not_depend_on_the_order_of_sources(self) -> None:
        sources = np.random.default_rng(0).uniform(0, 255, (3, 33, 40))
        np.testing.assert_allclose(laplacian_fusion(sources[::-1]), laplacian_fusion(sources), atol=1e-9)

    def test_keeps_a_dot_of_one_source_on_the_flat_ground_of_the_other(self) -> None:
        dot = np.full((64, 64), 100.0)
        dot[32, 32] = 200
        fused = laplacian_fusion(np.stack([dot, np.full((64, 64), 100.0)]))
        # All of the dot but half of what is left of it below the bands.
        assert fused[32, 32] == pytest.approx(200, abs=1)
        assert fused[0, 0] == pytest.approx(100, abs=1)

    def test_the_strongest_coefficient_keeps_its_sign_and_ties_give_the_mean(self) -> None:
        np.testing.assert_array_equal(strongest(np.array([[1.0, 2, -3], [-4.0, 1, 3]])), [-4, 2, 0])


class TestWaveletFusion:
    @settings(max_examples=20, deadline=None)
    @given(st.integers(2, 70), st.integers(2, 70), st.integers(0, 9))
    def test_equal_sources_give_that_source(self, height: int, width: int, seed: int) -> None:
        image = np.random.default_rng(seed).uniform(0, 255, (height, width))
        fused = wavelet_fusion(np.stack([image, image]))
        np.testing.assert_allclose(fused, image, atol=1e-9)

    def test_does_not_depend_on_the_order_of_sources(self) -> None:
        sources = np.random.default_rng(0).uniform(0, 255, (3, 33, 40))
        np.testing.assert_allclose(wavelet_fusion(sources[::-1]), wavelet_fusion(sources), atol=1e-9)

    def test_sources_that_differ_in_brightness_alone_give_the_mean_brightness(self) -> None:
        image = np.random.default_rng(0).uniform(0, 200, (48, 48))
        np.testing.assert_allclose(wavelet_fusion(np.stack([image, image + 40])), image + 20, atol=1e-9)

"""Fusion rules: maximum, mean and colour by hand, volumes slice by slice, and the range."""

from __future__ import annotations

import numpy as np
import pytest

from fuse4seg.inference.fusion_rules import RULES, fuse_by_rule

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

"""Fusion rules: maximum and mean by hand, volumes slice by slice, and the range."""

from __future__ import annotations

import numpy as np
import pytest

from fuse4seg.inference.fusion_rules import RULES, fuse_by_rule


@pytest.fixture
def sources() -> list[np.ndarray]:
    """Two uint8 volumes with black and white in them."""
    random = np.random.default_rng(0)
    return [random.choice([0, 90, 255], (3, 40, 44)).astype(np.uint8) for _ in range(2)]


def test_maximum_and_mean(sources: list[np.ndarray]) -> None:
    np.testing.assert_array_equal(fuse_by_rule(sources, "max"), np.maximum(*sources))
    np.testing.assert_array_equal(fuse_by_rule(sources, "mean"), (sources[0] / 2 + sources[1] / 2))


@pytest.mark.parametrize("rule", RULES)
def test_volumes_are_fused_slice_by_slice(sources: list[np.ndarray], rule: str) -> None:
    slices = [fuse_by_rule([source[index] for source in sources], rule) for index in range(3)]
    np.testing.assert_allclose(fuse_by_rule(sources, rule), np.stack(slices), atol=1e-9)


@pytest.mark.parametrize("rule", RULES)
def test_never_leaves_the_range_of_grey_levels(sources: list[np.ndarray], rule: str) -> None:
    fused = fuse_by_rule(sources, rule)
    assert 0 <= fused.min() <= fused.max() <= 255

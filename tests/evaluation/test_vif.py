"""VIF against sewar, and its laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sewar.full_ref import vifp

from fuse4seg.evaluation.vif import vif


def test_is_that_of_sewar(fused: np.ndarray, sources: list[np.ndarray]) -> None:
    expected = sum(vifp(source, fused) for source in sources)
    assert vif(fused, sources) == pytest.approx(expected, abs=1e-9)


def test_of_odd_sizes_and_inverted_contrast_is_that_of_sewar(fused: np.ndarray, sources: list[np.ndarray]) -> None:
    image, references = 255 - fused[:41, :57], [source[:41, :57] for source in sources]
    expected = sum(vifp(source, image) for source in references)
    assert vif(image, references) == pytest.approx(expected, abs=1e-9)


def test_of_a_copy_is_one_for_itself(sources: list[np.ndarray]) -> None:
    assert vif(sources[0], [sources[0]] * 2) == pytest.approx(2.0, abs=1e-6)


def test_of_a_black_image_is_nothing(sources: list[np.ndarray]) -> None:
    assert vif(np.zeros_like(sources[0]), sources) == pytest.approx(0.0, abs=1e-9)


def test_of_a_constant_source_is_not_defined(fused: np.ndarray) -> None:
    assert math.isnan(vif(fused, [fused, np.zeros_like(fused)]))


def test_of_three_sources_is_the_mean_over_pairs(fused: np.ndarray, sources: list[np.ndarray]) -> None:
    three = [*sources, 255 - sources[0]]
    expected = 2 / 3 * sum(vifp(source, fused) for source in three)
    assert vif(fused, three) == pytest.approx(expected, abs=1e-9)


def test_needs_a_window_at_the_coarsest_scale() -> None:
    with pytest.raises(ValueError, match=r"41 voxels.*\(40, 90\)"):
        vif(np.zeros((40, 90)), [np.zeros((40, 90))] * 2)

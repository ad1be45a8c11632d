"""SD against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from fuse4seg.evaluation.standard_deviation import standard_deviation


def test_of_two_levels_is_half_their_distance() -> None:
    assert standard_deviation(np.resize(np.array([50, 150], np.uint8), (8, 8))) == 50.0


def test_is_that_of_the_population(fused: np.ndarray) -> None:
    assert standard_deviation(fused) == pytest.approx(np.sqrt((fused**2).mean() - fused.mean()**2))

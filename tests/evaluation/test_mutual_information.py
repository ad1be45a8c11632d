"""MI against scikit-learn, and its laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import mutual_info_score

from fuse4seg.evaluation.entropy import entropy
from fuse4seg.evaluation.mutual_information import mutual_information

IMAGES = arrays(np.uint8, (7, 5), elements=st.integers(0, 255))


def test_is_that_of_scikit_learn(fused: np.ndarray, sources: list[np.ndarray]) -> None:
    expected = sum(mutual_info_score(np.rint(source).ravel(), np.rint(fused).ravel()) for source in sources)
    assert mutual_information(fused, sources) == pytest.approx(expected, abs=1e-10)
    assert mutual_information(fused, sources, unit="bits") == pytest.approx(expected / math.log(2), abs=1e-10)


@given(IMAGES)
def test_of_an_image_with_itself_is_its_entropy(image: np.ndarray) -> None:
    assert mutual_information(image, [image, image], unit="bits") == pytest.approx(2 * entropy(image), abs=1e-9)


@given(IMAGES, IMAGES, IMAGES)
def test_is_symmetric_in_the_sources_and_not_negative(fused: np.ndarray, first: np.ndarray, second: np.ndarray) -> None:
    value = mutual_information(fused, [first, second])
    assert value == pytest.approx(mutual_information(fused, [second, first]), abs=1e-12)
    assert value > -1e-12


def test_of_three_sources_is_the_mean_over_pairs(fused: np.ndarray, sources: list[np.ndarray]) -> None:
    three = [*sources, 255 - sources[0]]
    pairs = [mutual_information(fused, [three[one], three[other]]) for one, other in ((0, 1), (0, 2), (1, 2))]
    assert mutual_information(fused, three) == pytest.approx(np.mean(pairs))


def test_is_refused_in_another_unit(fused: np.ndarray, sources: list[np.ndarray]) -> None:
    with pytest.raises(ValueError, match="nats or bits, not in hartleys"):
        mutual_information(fused, sources, unit="hartleys")

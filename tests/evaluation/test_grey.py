"""What fusion metrics take, and how they go over pairs."""

from __future__ import annotations

import numpy as np
import pytest

from fuse4seg.evaluation.grey import grey, grey_alike, grey_levels, mean_over_pairs, sum_over_two


@pytest.mark.parametrize("kind", [np.uint8, np.float32, np.float64])
def test_images_in_range_are_taken(kind: type) -> None:
    image = np.array([[0, 255], [17, 3]], kind)
    assert grey(image).dtype == np.float64
    np.testing.assert_array_equal(grey(image), image)


@pytest.mark.parametrize(("image", "problem"), [
    (np.zeros((2, 2, 3), np.uint8), r"two axes.*\(2, 2, 3\)"), (np.zeros((0, 4)), "two axes"),
    (np.zeros((2, 2), np.uint16), "uint16"), (np.zeros((2, 2), bool), "bool"), (np.full((2, 2), -0.1), "-0.1"),
    (np.full((2, 2), 255.1), "255.1"), (np.full((2, 2), np.nan), "nan")])
def test_others_are_refused(image: np.ndarray, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        grey(image)


def test_levels_are_rounded() -> None:
    np.testing.assert_array_equal(grey_levels(np.array([[0.4, 0.6, 254.9]])), [[0, 1, 255]])


def test_one_source_is_no_fusion() -> None:
    with pytest.raises(ValueError, match="two sources at least, got 1"):
        grey_alike(np.zeros((2, 2)), [np.zeros((2, 2))])


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"\(2, 2\), a source \(2, 3\)"):
        grey_alike(np.zeros((2, 2)), [np.zeros((2, 2)), np.zeros((2, 3))])


def test_a_sum_over_two_of_many_is_the_mean_over_their_pairs() -> None:
    numbers = [np.array(float(number)) for number in (1, 5, 12, 2)]
    assert sum_over_two(numbers, float) == pytest.approx(mean_over_pairs(numbers, lambda one, other: float(one + other)))
    assert sum_over_two(numbers[:2], float) == 6

"""EN, SD, SF, MI and SCD against scikit-image, scikit-learn, closed forms and their formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.measure import shannon_entropy
from sklearn.metrics import mutual_info_score

from fuse4seg.evaluation.grey_statistics import entropy, mutual_information, scd, spatial_frequency, standard_deviation


class TestEntropy:
    def test_is_that_of_scikit_image(self, fused: np.ndarray) -> None:
        assert entropy(fused) == pytest.approx(shannon_entropy(np.rint(fused)), abs=1e-12)

    @pytest.mark.parametrize(("levels", "bits"), [(1, 0.0), (2, 1.0), (256, 8.0)])
    def test_of_equally_frequent_levels_is_their_logarithm(self, levels: int, bits: float) -> None:
        assert entropy(np.resize(np.arange(levels, dtype=np.uint8), (32, 256))) == bits


class TestStandardDeviation:
    def test_of_two_levels_is_half_their_distance(self) -> None:
        assert standard_deviation(np.resize(np.array([50, 150], np.uint8), (8, 8))) == 50.0

    def test_is_that_of_the_population(self, fused: np.ndarray) -> None:
        assert standard_deviation(fused) == pytest.approx(np.sqrt((fused**2).mean() - fused.mean()**2))


class TestSpatialFrequency:
    def test_of_a_ramp_is_the_length_of_its_gradient(self) -> None:
        rows, columns = np.mgrid[:10, :12]
        assert spatial_frequency(3.0 * rows + 4.0 * columns) == pytest.approx(5.0)

    def test_of_stripes_is_their_contrast(self) -> None:
        assert spatial_frequency(np.resize(np.array([0, 200], np.uint8), (6, 8))) == 200.0

    def test_needs_two_voxels_along_each_axis(self) -> None:
        with pytest.raises(ValueError, match=r"two voxels.*\(1, 5\)"):
            spatial_frequency(np.zeros((1, 5)))


IMAGES = arrays(np.uint8, (7, 5), elements=st.integers(0, 255))


class TestMutualInformation:
    def test_is_that_of_scikit_learn(self, fused: np.ndarray, sources: list[np.ndarray]) -> None:
        expected = sum(mutual_info_score(np.rint(source).ravel(), np.rint(fused).ravel()) for source in sources)
        assert mutual_information(fused, sources) == pytest.approx(expected, abs=1e-10)
        assert mutual_information(fused, sources, unit="bits") == pytest.approx(expected / math.log(2), abs=1e-10)

    @given(IMAGES)
    def test_of_an_image_with_itself_is_its_entropy(self, image: np.ndarray) -> None:
        assert mutual_information(image, [image, image], unit="bits") == pytest.approx(2 * entropy(image), abs=1e-9)

    @given(IMAGES, IMAGES, IMAGES)
    def test_is_symmetric_in_the_sources_and_not_negative(self, fused: np.ndarray, first: np.ndarray, second: np.ndarray) -> None:
        value = mutual_information(fused, [first, second])
        assert value == pytest.approx(mutual_information(fused, [second, first]), abs=1e-12)
        assert value > -1e-12

    def test_of_three_sources_is_the_mean_over_pairs(self, fused: np.ndarray, sources: list[np.ndarray]) -> None:
        three = [*sources, 255 - sources[0]]
        pairs = [mutual_information(fused, [three[one], three[other]]) for one, other in ((0, 1), (0, 2), (1, 2))]
        assert mutual_information(fused, three) == pytest.approx(np.mean(pairs))

    def test_is_refused_in_another_unit(self, fused: np.ndarray, sources: list[np.ndarray]) -> None:
        with pytest.raises(ValueError, match="nats or bits, not in hartleys"):
            mutual_information(fused, sources, unit="hartleys")


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Pearson's r, voxel by voxel."""
    pairs = list(zip(first.ravel().tolist(), second.ravel().tolist(), strict=True))
    means = [sum(values) / len(pairs) for values in zip(*pairs, strict=True)]
    covariance = sum((a - means[0]) * (b - means[1]) for a, b in pairs)
    spread = [math.fsum((pair[k] - means[k])**2 for pair in pairs) for k in (0, 1)]
    return covariance / math.sqrt(spread[0] * spread[1])


class TestScd:
    def test_is_that_of_the_formula(self, fused: np.ndarray, sources: list[np.ndarray]) -> None:
        first, second = sources
        expected = correlation(first, fused - second) + correlation(second, fused - first)
        assert scd(fused, sources) == pytest.approx(expected, abs=1e-10)
        assert scd(fused, sources[::-1]) == pytest.approx(expected, abs=1e-10)

    def test_of_the_sum_of_the_sources_is_two(self, sources: list[np.ndarray]) -> None:
        halves = [source / 2 for source in sources]
        assert scd(halves[0] + halves[1], halves) == pytest.approx(2.0)

    def test_is_not_defined_for_a_copy(self, sources: list[np.ndarray]) -> None:
        assert math.isnan(scd(sources[0], sources))

    def test_of_three_sources_is_the_mean_over_pairs(self, fused: np.ndarray, sources: list[np.ndarray]) -> None:
        three = [*sources, 255 - sources[0]]
        pairs = [scd(fused, [three[one], three[other]]) for one, other in ((0, 1), (0, 2), (1, 2))]
        assert scd(fused, three) == pytest.approx(np.mean(pairs))

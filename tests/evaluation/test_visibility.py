"""Visibility: against other implementations and closed forms, its bound, and what it leaves out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_dilation
from scipy.stats import norm
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import roc_auc_score

from fuse4seg.evaluation.visibility import AROUND, LEAST_CONTACT, LEAST_VOXELS, RING, as_seen, told_apart, visibility

SHAPE = (2, 40, 60)
EVERYWHERE = np.ones(SHAPE, bool)
CLASSES = {"core": 1, "oedema": 2}


def halves() -> np.ndarray:
    """Two classes side by side that fill everything."""
    labels = np.ones(SHAPE, int)
    labels[..., 30:] = 2
    return labels


def gaussian_sources(seed: int, count: int) -> np.ndarray:
    """Levels of ``count`` sources, normal in each of :func:`halves`, of any covariances that span many levels."""
    random = np.random.default_rng(seed)
    labels, sources = halves(), np.empty((count, *SHAPE))
    for value in (1, 2):
        region = labels == value
        mixing = 10 * np.eye(count) + random.normal(0, 4, (count, count))
        sources[:, region] = (128 + random.normal(0, 12, (count, 1))
                              + mixing @ random.standard_normal((count, np.count_nonzero(region))))
    return np.clip(sources, 1, 255)


def of_halves(image: np.ndarray) -> float:
    """Visibility of the boundary between :func:`halves`."""
    found = visibility(image, halves(), EVERYWHERE, classes=CLASSES)
    assert found.keys() == {"core|oedema"}
    return found["core|oedema"]


class TestToldApart:
    @pytest.mark.parametrize(("first", "second"), [([1.0, 2, 2, 4], [2.0, 3]), ([9.0], [1.0, 9]), ([4.0, 4], [4.0, 4, 4])])
    def test_of_one_channel_counts_pairs_in_order_and_ties_half(self, first: list[float], second: list[float]) -> None:
        pairs = [(one < other) + (one == other) / 2 for one in first for other in second]
        area = np.mean(pairs)
        found = told_apart(np.array(first * 3)[:, None], np.array(second * 3)[:, None])
        assert found == pytest.approx(max(area, 1 - area))

    @pytest.mark.parametrize("channels", [1, 2, 3, 4])
    @pytest.mark.parametrize("seed", range(3))
    def test_is_sklearns_area_of_sklearns_discriminant(self, channels: int, seed: int) -> None:
        """Without shrinkage, both classes counting alike; what FLOOR adds to the scatter shows in no digit that matters."""
        random = np.random.default_rng(seed)
        first, second = (random.normal(shift, 20, (400, channels)) @ random.normal(0, 1, (channels, channels))
                         for shift in (0, random.normal(0, 12, channels)))
        voxels, truth = np.concatenate([first, second]), np.repeat([0, 1], 400)
        discriminant = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=None, priors=[0.5, 0.5]).fit(voxels, truth)
        expected = roc_auc_score(truth, discriminant.decision_function(voxels))
        assert told_apart(first, second) == pytest.approx(expected, abs=1e-3)

    def test_of_normal_classes_is_the_normal_distributions_area(self) -> None:
        r"""Phi of the distance over the root of the summed variances, however many voxels each has."""
        random = np.random.default_rng(0)
        first, second = random.normal(100, 10, (20000, 1)), random.normal(112, 5, (5000, 1))
        assert told_apart(first, second) == pytest.approx(norm.cdf(12 / np.hypot(10, 5)), abs=0.01)

    @pytest.mark.parametrize("channels", [1, 3])
    def test_of_noise_is_a_half_and_of_separated_classes_1(self, channels: int) -> None:
        first, second = np.random.default_rng(0).normal(100, 10, (2, 3000, channels))
        assert 0.5 <= told_apart(first, second) < 0.53
        second[:, -1] += 100
        assert told_apart(first, second) == 1

    def test_bears_constant_channels(self) -> None:
        one = np.full((300, 2), 7.0)
        assert told_apart(one, one) == 0.5
        assert told_apart(one, one + [0, 1]) == 1


class TestVisibility:
    @settings(max_examples=40, deadline=None)
    @given(seed=st.integers(0, 2**16), count=st.integers(1, 4), channels=st.sampled_from([1, 3]), data=st.data())
    def test_of_a_mixture_of_sources_is_not_above_that_of_all_of_them(self, seed: int, count: int, channels: int,
                                                                      data: st.DataObject) -> None:
        """Of normal classes no linear mixture has a larger area than Fisher's, whose scatter is the mean of both.

        The tolerance is for the sample, 2400 voxels of a class, in which another mixture may happen to be a little better, and
        for the blurred boundary, where nothing is normal: over thousands of draws the mixture had .0014 more at most.
        """
        sources = gaussian_sources(seed, count)
        weights = 0.001 + np.array(data.draw(st.lists(st.lists(st.floats(0, 1), min_size=count, max_size=count),
                                                      min_size=channels, max_size=channels)))
        shares = weights / weights.sum(axis=1, keepdims=True)
        assert 0.5 <= of_halves(np.tensordot(shares, sources, axes=1)) <= of_halves(sources) + 0.005

    def test_of_what_was_painted_is_above_it(self) -> None:
        """So the bound tells a painted image from a fused one."""
        sources = np.random.default_rng(0).normal(128, 20, (2, *SHAPE))
        assert of_halves(sources[:1] + 20 * (halves() == 2)) > of_halves(sources) + 0.1

    @pytest.mark.parametrize("channels", [1, 3])
    def test_does_not_change_when_levels_are_inverted_or_channels_change_places(self, channels: int) -> None:
        image = np.rint(gaussian_sources(1, channels))
        for other in (255 - image, image[::-1]):
            assert of_halves(other) == pytest.approx(of_halves(image), abs=1e-9)

    def test_of_noise_is_about_a_half_and_of_classes_of_their_own_grey_1(self) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (3, *SHAPE))
        assert of_halves(noise) < 0.54
        assert of_halves(100.0 * halves()[None]) == 1

    def test_sees_nothing_finer_than_two_voxels(self) -> None:
        """Classes that differ in the phase of a chequerboard alone, as halftones could write them, cannot be told."""
        rows, columns = np.indices(SHAPE[1:])
        board = 100 + 80 * (-1.0) ** (rows + columns)
        image = np.where(halves() == 1, board, 200 - board)[None]
        inner = as_seen(image)[..., 2:28]
        np.testing.assert_allclose(inner[..., 2:-2, :], 100)
        assert of_halves(image) < 0.55

    def test_sees_nothing_finer_than_a_level(self) -> None:
        assert of_halves(np.where(halves() == 1, 100.2, 100.4)[None]) == 0.5


class TestBoundaries:
    @staticmethod
    def disc(*, core: int = 200, contact: bool = True) -> np.ndarray:
        """An oedema, and a core of so many voxels in it, or far from it."""
        labels = np.zeros(SHAPE, int)
        labels[:, 12:28, 10:34] = 2
        within = np.zeros(SHAPE, bool)
        within[:, 14:26, 12:32] = True
        if not contact:
            within = np.zeros(SHAPE, bool)
            within[:, 2:38, 50:60] = True
        labels[tuple(axis[:core] for axis in np.nonzero(within))] = 1
        return labels

    @staticmethod
    def boundaries(labels: np.ndarray, inside: np.ndarray = EVERYWHERE) -> set[str]:
        return set(visibility(np.ones((1, *SHAPE)), labels, inside, classes=CLASSES))

    def test_are_those_between_classes_that_touch(self) -> None:
        assert self.boundaries(self.disc()) == {f"{AROUND}|oedema", "core|oedema"}
        assert self.boundaries(self.disc(contact=False)) == {f"{AROUND}|oedema", f"{AROUND}|core"}

    def test_are_those_of_classes_with_enough_voxels(self) -> None:
        assert "core|oedema" in self.boundaries(self.disc(core=LEAST_VOXELS))
        assert self.boundaries(self.disc(core=LEAST_VOXELS - 1)) == {f"{AROUND}|oedema"}

    @pytest.mark.parametrize("faces", [LEAST_CONTACT - 1, LEAST_CONTACT])
    def test_are_those_with_enough_contact(self, faces: int) -> None:
        """A core beside an oedema, which share so many faces of voxels."""
        labels = np.zeros(SHAPE, int)
        labels[0, :25, :15], labels[0, :faces, 15:45] = 1, 2
        assert ("core|oedema" in self.boundaries(labels)) == (faces >= LEAST_CONTACT)

    def test_have_the_tissue_within_six_voxels_around_what_is_labelled(self) -> None:
        """Wherever else it is bright does not matter, nor what lies outside the image."""
        labels = self.disc()
        near = binary_dilation(labels > 0, iterations=RING)
        image = np.where(labels > 0, 150.0, 100.0)
        inside = EVERYWHERE.copy()
        inside[..., :6] = False
        elsewhere = np.where(near & inside, image, 250.0)
        found, expected = (as_one(labels, one, inside) for one in (elsewhere, image))
        assert expected[f"{AROUND}|oedema"] == 1
        assert found["core|oedema"] == expected["core|oedema"]
        # But for the blur across the ring's own edge.
        assert found[f"{AROUND}|oedema"] > 0.8
        nearer = np.where(binary_dilation(labels > 0, iterations=RING - 2), image, 250.0)
        assert as_one(labels, nearer, inside)[f"{AROUND}|oedema"] < found[f"{AROUND}|oedema"]

    def test_of_nothing_labelled_are_none(self) -> None:
        assert self.boundaries(np.zeros(SHAPE, int)) == set()

    def test_pass_over_what_nnunet_marks_as_outside(self) -> None:
        labels = self.disc()
        labels[:, :, :10] = -1
        assert self.boundaries(labels) == {f"{AROUND}|oedema", "core|oedema"}


def as_one(labels: np.ndarray, image: np.ndarray, inside: np.ndarray) -> dict[str, float]:
    return visibility(image[None], labels, inside, classes=CLASSES)

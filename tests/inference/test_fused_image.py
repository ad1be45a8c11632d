"""The fused image as levels: 0 is outside and nothing else is, and what is read is what nnU-Net's preprocessor would give."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from scipy.ndimage import gaussian_filter

from fuse4seg.inference.fused_image import read_levels, to_levels

MakePlans = Callable[..., PlansManager]
BOX = (slice(3, 17), slice(4, 20), slice(5, 27))
SHAPE = (20, 24, 30)


def properties_of(shape: Sequence[int], box: Sequence[slice] | None = None) -> dict[str, Any]:
    """Of a case that was cropped to a box, and not resampled."""
    box = box or [slice(0, size) for size in shape]
    return {"spacing": [1.0, 1.0, 1.0], "shape_before_cropping": tuple(shape),
            "bbox_used_for_cropping": [[part.start, part.stop] for part in box],
            "shape_after_cropping_and_before_resampling": tuple(part.stop - part.start for part in box)}


def write(fused: np.ndarray, properties: dict[str, Any], plans: PlansManager) -> np.ndarray:
    return to_levels(fused, properties, plans=plans, configuration=plans.get_configuration("here"))


def read(levels: np.ndarray, spacing: Sequence[float], plans: PlansManager) -> tuple[np.ndarray, dict[str, Any]]:
    return read_levels(levels, spacing, plans=plans, configuration=plans.get_configuration("here"))


def smooth_levels(colours: int = 3, *, seed: int = 0) -> np.ndarray:
    """Smooth levels from 1 to 255 within BOX, 0 outside."""
    noise = [gaussian_filter(one, 2.0) for one in np.random.default_rng(seed).standard_normal((colours, *SHAPE))]
    levels = np.zeros((colours, *SHAPE), np.uint8)
    for channel, one in zip(levels, noise, strict=True):
        channel[BOX] = np.rint(1 + 254 * (one - one.min()) / np.ptp(one))[BOX]
    return levels


class TestToLevels:
    def test_rounds_to_whole_levels_of_which_0_is_outside_and_1_the_darkest(self, make_plans: MakePlans) -> None:
        fused = np.array([[0, 1e-4, 0.4 / 255, 1.4 / 255, 1.6 / 255, 0.5, 1]], np.float32).reshape(1, 1, 1, 7)
        levels = write(fused, properties_of((1, 1, 7)), make_plans((1, 1, 1)))
        assert levels.dtype == np.uint8
        np.testing.assert_array_equal(levels.ravel(), [0, 1, 1, 1, 2, 128, 255])

    def test_a_voxel_that_any_channel_shows_is_inside_in_all(self, make_plans: MakePlans) -> None:
        fused = np.zeros((3, 1, 2, 2), np.float32)
        fused[1, 0, 0, 1] = 0.5
        levels = write(fused, properties_of((1, 2, 2)), make_plans((1, 1, 1)))
        np.testing.assert_array_equal(levels[:, 0, 0, 1], [1, 128, 1])
        assert np.count_nonzero(levels) == 3

    def test_lies_where_the_case_was_cut_out(self, make_plans: MakePlans) -> None:
        fused = np.full((3, 14, 16, 22), 0.5, np.float32)
        levels = write(fused, properties_of(SHAPE, BOX), make_plans((1, 1, 1)))
        assert levels.shape == (3, *SHAPE)
        assert (levels[(slice(None), *BOX)] == 128).all()
        assert np.count_nonzero(levels) == fused.size

    @settings(max_examples=25, deadline=None)
    @given(levels=arrays.arrays(np.uint8, st.tuples(st.sampled_from([1, 3]), *[st.integers(1, 5)] * 3),
                                elements=st.integers(1, 255)))
    def test_of_whole_levels_is_these(self, make_plans: MakePlans, levels: np.ndarray) -> None:
        """So exporting adds nothing to the rounding that the follower was trained with."""
        found = write(levels / np.float32(255), properties_of(levels.shape[1:]), make_plans((1, 1, 1)))
        np.testing.assert_array_equal(found, levels)


class TestReadLevels:
    @pytest.mark.parametrize("transpose", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
    @pytest.mark.parametrize("colours", [1, 3])
    def test_crops_to_the_box_of_the_image_and_gives_back_its_levels(self, make_plans: MakePlans, transpose: tuple[int, ...],
                                                                     colours: int) -> None:
        levels = smooth_levels(colours)
        image, space = read(levels, (1, 1, 1), make_plans((1, 1, 1), transpose=transpose))
        expected = levels[(slice(None), *BOX)].transpose(0, *(axis + 1 for axis in transpose))
        assert image.dtype == np.float32
        np.testing.assert_array_equal(image, expected / np.float32(255))
        assert [tuple(ends) for ends in space["bbox_used_for_cropping"]] == [(BOX[axis].start, BOX[axis].stop)
                                                                             for axis in transpose]
        assert space["shape_after_cropping_and_before_resampling"] == expected.shape[1:]
        assert space["shape_before_cropping"] == tuple(SHAPE[axis] for axis in transpose)

    @pytest.mark.parametrize(("target", "spacing", "transpose"), [
        ((1, 1, 1), (0.8, 0.8, 0.8), (0, 1, 2)), ((1, 1, 1), (1.6, 1.3, 0.7), (1, 0, 2)), ((1, 1, 1), (5.0, 1.2, 1.1), (0, 1, 2)),
        ((0.9, 1.2), (3.0, 1.0, 1.0), (0, 1, 2)), ((0.9, 1.2), (1.0, 1.0, 3.0), (2, 0, 1))])
    def test_resamples_as_nnunets_preprocessor_does(self, make_plans: MakePlans, target: tuple[float, ...],
                                                    spacing: tuple[float, ...], transpose: tuple[int, ...]) -> None:
        """On the grid that it gives, with its numbers but for overshoots, and 0 where less than half of a voxel is inside."""
        plans = make_plans(target, transpose=transpose, order=3, channels=3)
        levels = smooth_levels()
        image, space = read(levels, spacing, plans)
        wanted, _, properties = DefaultPreprocessor(verbose=False).run_case_npy(
            levels.astype(np.float32), None, {"spacing": list(spacing)}, plans, plans.get_configuration("here"),
            {"channel_names": {"0": "R", "1": "G", "2": "B"}, "labels": {"background": 0}})
        assert image.shape == wanted.shape
        assert image.shape[1:] != space["shape_after_cropping_and_before_resampling"]
        assert {name: list(map(list, value)) if name.startswith("bbox") else list(value) for name, value in space.items()} == {
            name: list(map(list, properties[name])) if name.startswith("bbox") else list(properties[name]) for name in space}
        assert 0 <= image.min() <= image.max() <= 1
        inside = image.any(axis=0)
        np.testing.assert_allclose(image[:, inside], np.clip(wanted / 255, 0, 1)[:, inside], atol=1e-5)
        assert inside.mean() > 0.95

    def test_is_0_outside_after_resampling(self, make_plans: MakePlans) -> None:
        """A ball amid its box: interpolation overshoots beside its edge, and nothing of that is read."""
        plans = make_plans((1, 1, 1), order=3)
        places = np.indices(SHAPE) - np.array([10, 12, 15]).reshape(3, 1, 1, 1)
        ball = np.square(places).sum(axis=0) < 64
        image, space = read((200 * ball)[None].astype(np.uint8), (1.3, 1.3, 1.3), plans)
        box = tuple(slice(*ends) for ends in space["bbox_used_for_cropping"])
        extents = [np.linspace(0, size - 1, wanted) for size, wanted in
                   zip(ball[box].shape, image.shape[1:], strict=True)]
        radius = np.sqrt(sum(np.square(axis - axis.mean()) for axis in np.meshgrid(*extents, indexing="ij")))
        assert not image[0][radius > 8.8].any()
        assert (image[0][radius < 7.2] > 0).all()

    @pytest.mark.parametrize("spacing", [(1, 1, 1), (0.8, 1.1, 1.3)])
    def test_there_and_back_is_close(self, make_plans: MakePlans, spacing: tuple[float, ...]) -> None:
        """Read, and exported again: the same levels without resampling, smooth ones nearly so with it."""
        plans, levels = make_plans((1, 1, 1), order=3), smooth_levels()
        image, space = read(levels, spacing, plans)
        again = write(image, space, plans)
        difference = np.abs(again.astype(int) - levels)
        assert difference.max() == 0 if spacing == (1, 1, 1) else difference[(slice(None), *BOX)].mean() < 3
        np.testing.assert_array_equal(again.any(axis=0), levels.any(axis=0))

    def test_of_nothing_is_the_whole_image(self, make_plans: MakePlans) -> None:
        image, space = read(np.zeros((1, 2, 3, 4), np.uint8), (1, 1, 1), make_plans((1, 1, 1)))
        assert image.shape == (1, 2, 3, 4)
        assert not image.any()
        assert space["bbox_used_for_cropping"] == [[0, 2], [0, 3], [0, 4]]

"""Between grids: what was cropped, turned and resampled comes back, levels are kept, and resampling has nnU-Net's numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape
from nnunetv2.preprocessing.resampling.resample_torch import resample_torch_fornnunet
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from scipy.ndimage import gaussian_filter

from fuse4seg.inference.input_space import read_levels, resampled, resampled_blocks, to_input_space, to_levels
from fuse4seg.inference.model import ModelDescription

MakePlans = Callable[..., PlansManager]
BOX = (slice(3, 17), slice(4, 20), slice(5, 27))


def description_of(plans: PlansManager) -> ModelDescription:
    return ModelDescription(plans, plans.get_configuration("here"), {"labels": {"background": 0}})


def head(shape: Sequence[int] = (20, 24, 30)) -> np.ndarray:
    """Smooth image between 0.2 and 1 within BOX and 0 outside."""
    noise = gaussian_filter(np.random.default_rng(0).standard_normal(shape), 2.5)
    image = np.zeros(shape, np.float32)
    image[BOX] = (0.2 + 0.8 * (noise - noise.min()) / np.ptp(noise))[BOX]
    return image


def there_and_back(image: np.ndarray, spacing: Sequence[float],
                   plans: PlansManager) -> tuple[np.ndarray, tuple[int, ...]]:
    """The image after preprocessing and its return, and its shape in between."""
    properties: dict[str, Any] = {"spacing": list(spacing)}
    configuration = plans.get_configuration("here")
    dataset_json = {"channel_names": {"0": "T1"}, "labels": {"background": 0}}
    data, _, properties = DefaultPreprocessor(verbose=False).run_case_npy(
        image[None], None, properties, plans, configuration, dataset_json)
    back = to_input_space(torch.from_numpy(data), properties, description=description_of(plans))
    return back, data.shape[1:]


class TestToInputSpace:
    @pytest.mark.parametrize("transpose", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
    def test_undoes_cropping_and_transposition_exactly(self, make_plans: MakePlans, transpose: tuple[int, int, int]) -> None:
        image = head()
        back, between = there_and_back(image, (1, 1, 1), make_plans((1, 1, 1), transpose=transpose))
        assert between == tuple(np.array([14, 16, 22])[list(transpose)])
        assert back.dtype == np.float32
        np.testing.assert_array_equal(back, image[None])

    def test_is_0_outside_the_box_that_preprocessing_kept(self, make_plans: MakePlans) -> None:
        back, _ = there_and_back(head(), (1, 1, 1), make_plans((2, 2, 2)))
        outside = np.ones(back.shape, bool)
        outside[(slice(None), *BOX)] = False
        assert not back[outside].any()
        assert back[0][BOX].min() > 0

    @pytest.mark.parametrize("spacing", [(0.8, 0.8, 0.8), (1.6, 1.3, 0.7), (3.0, 0.9, 0.9)])
    def test_brings_a_resampled_image_back_to_its_grid(self, make_plans: MakePlans, spacing: tuple[float, float, float]) -> None:
        image = head()
        back, between = there_and_back(image, spacing, make_plans((1, 1, 1), transpose=(1, 0, 2)))
        assert between == tuple(round(size * spacing[axis]) for axis, size in ((1, 16), (0, 14), (2, 22)))
        assert back.shape == (1, *image.shape)
        difference = np.abs(back[0] - image)[BOX]
        assert difference.mean() < 0.02
        assert 0 <= back.min() <= back.max() <= 1

    def test_keeps_the_slices_of_a_2d_configuration(self, make_plans: MakePlans) -> None:
        """A plan of two axes leaves the spacing between slices alone."""
        image = head()
        back, between = there_and_back(image, (5, 1, 1), make_plans((2, 2)))
        assert between == (14, 8, 11)
        assert np.abs(back[0] - image)[BOX].mean() < 0.1

    def test_treats_every_image_alike(self, make_plans: MakePlans) -> None:
        plans, image = make_plans((1, 1, 1)), head()
        properties = {"spacing": [1.0, 1.0, 1.0], "shape_before_cropping": image.shape,
                      "bbox_used_for_cropping": [[part.start, part.stop] for part in BOX],
                      "shape_after_cropping_and_before_resampling": image[BOX].shape}
        pair = torch.from_numpy(np.stack([image[BOX], 1 - image[BOX]]))
        back = to_input_space(pair, properties, description=description_of(plans))
        np.testing.assert_array_equal(back[0], image)
        np.testing.assert_array_equal(back[1][BOX], 1 - image[BOX])


SHAPE = (20, 24, 30)


def properties_of(shape: Sequence[int], box: Sequence[slice] | None = None) -> dict[str, Any]:
    """Of a case that was cropped to a box, and not resampled."""
    box = box or [slice(0, size) for size in shape]
    return {"spacing": [1.0, 1.0, 1.0], "shape_before_cropping": tuple(shape),
            "bbox_used_for_cropping": [[part.start, part.stop] for part in box],
            "shape_after_cropping_and_before_resampling": tuple(part.stop - part.start for part in box)}


def write(fused: np.ndarray, properties: dict[str, Any], plans: PlansManager) -> np.ndarray:
    return to_levels(fused, properties, description=description_of(plans))


def read(levels: np.ndarray, spacing: Sequence[float], plans: PlansManager) -> tuple[np.ndarray, dict[str, Any]]:
    return read_levels(levels, spacing, description=description_of(plans))


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


#: Shapes before and after, and spacings (mm) before and after: slices that stay, that do not, thick and thin ones, and thick
#: ones along another axis.
CASES = {"slices stay": ((7, 20, 15), (7, 13, 22), (2, 1, 1), (2, 1.5, 0.7)),
         "thick slices stay": ((7, 20, 15), (7, 13, 22), (5, 1, 1), (5, 1.5, 0.7)),
         "all move": ((7, 20, 15), (11, 13, 22), (1.5, 1, 1), (1, 1.5, 0.7)),
         "fewer": ((11, 20, 15), (6, 20, 15), (1, 1, 1), (1.8, 1, 1)),
         "thick slices move": ((7, 20, 15), (11, 13, 22), (6, 1, 1), (4, 1.5, 0.7)),
         "thick along X": ((7, 20, 9), (11, 13, 14), (1.5, 1, 6), (1, 1.5, 4)),
         "nothing moves": ((7, 20, 15), (7, 20, 15), (1, 1, 1), (1, 1, 1))}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[tuple[float, ...], ...]:
    return CASES[request.param]


def images_of(shape: tuple[int, ...]) -> np.ndarray:
    noise = np.random.default_rng(0).standard_normal((3, *shape))
    return gaussian_filter(noise, (0, 1, 1, 1)).astype(np.float32)


def plans_function(order: int) -> partial[np.ndarray]:
    return partial(resample_data_or_seg_to_shape, is_seg=False, order=order, order_z=0, force_separate_z=None)


class TestResampled:
    @pytest.mark.parametrize("order", [1, 3])
    def test_is_nnunets(self, case: tuple[tuple[float, ...], ...], order: int) -> None:
        before, after, *spacings = case
        images, resample = images_of(before), plans_function(order)
        found = resampled(images, after, *spacings, resample=resample)
        np.testing.assert_allclose(found, resample(images, after, *spacings), atol=1e-5)
        assert found.dtype == np.float32


class TestResampledBlocks:
    @pytest.mark.parametrize("order", [1, 3])
    @pytest.mark.parametrize("voxels", [1, 2000, 2**23])
    def test_are_nnunets_one_after_the_other(self, case: tuple[tuple[float, ...], ...], order: int, voxels: int,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("fuse4seg.inference.input_space.VOXELS_IN_BLOCK", voxels)
        before, after, *spacings = case
        images, resample = images_of(before), plans_function(order)
        blocks = list(resampled_blocks(images, after, *spacings, resample=resample))
        assert [place for block, _ in blocks for place in range(block.start, block.stop)] == list(range(after[0]))
        np.testing.assert_allclose(np.concatenate([part for _, part in blocks], axis=1), resample(images, after, *spacings),
                                   atol=1e-5)

    def test_of_half_precision_are_in_float32(self) -> None:
        images = images_of((7, 20, 15)).astype(np.float16)
        (_, found), = resampled_blocks(images, (11, 13, 22), (1, 1, 1), (1, 1, 1), resample=plans_function(1))
        assert found.dtype == np.float32

    def test_by_a_function_of_the_plans_that_we_do_not_know_are_its(self) -> None:
        images, resample = images_of((7, 20, 15)), partial(resample_torch_fornnunet, is_seg=False, mode="linear")
        spacings = (1.5, 1, 1), (1, 1.5, 0.7)
        (_, found), = resampled_blocks(images, (11, 13, 22), *spacings, resample=resample)
        np.testing.assert_allclose(found, resample(images, (11, 13, 22), *spacings), atol=1e-6)

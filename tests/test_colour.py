"""Luma and colour differences: those of scikit-image and of JPEG, of tensors and of arrays."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from skimage.color import rgb2ycbcr

from fuse4seg.colour import chroma, colour_differences, grey_levels, luma

#: As (1, 3, 17, 289), every 16th level of each channel.
CUBE = np.array(list(product([*range(0, 256, 16), 255], repeat=3)), np.uint8).reshape(17, 289, 3)


def channels_first(pixels: np.ndarray) -> np.ndarray:
    return pixels.transpose(2, 0, 1)[None] / 255


@pytest.fixture(params=[np.asarray, torch.from_numpy], ids=["array", "tensor"])
def of_either_kind(request: pytest.FixtureRequest) -> Callable[[np.ndarray], np.ndarray | torch.Tensor]:
    return request.param


class TestLuma:
    def test_is_scikit_image_s(self, of_either_kind: Callable) -> None:
        """Whose Y goes from 16 to 235."""
        image = channels_first(CUBE)
        found = luma(of_either_kind(image))
        assert found.shape == (1, 1, 17, 289)
        np.testing.assert_allclose(np.asarray(found)[:, 0], (rgb2ycbcr(image, channel_axis=1)[:, 0] - 16) / 219, atol=1e-6)

    def test_is_pillow_s_grey_within_rounding(self) -> None:
        found = 255 * luma(channels_first(CUBE))[0, 0]
        assert np.abs(found - np.asarray(Image.fromarray(CUBE).convert("L"))).max() <= 0.51

    @pytest.mark.parametrize("size", [(3, 4), (2, 3, 4)])
    def test_of_one_channel_is_that_channel(self, size: tuple[int, ...], of_either_kind: Callable) -> None:
        image = of_either_kind(np.random.default_rng(0).random((2, 1, *size)))
        assert luma(image) is image

    @settings(deadline=None, max_examples=30)
    @given(seed=st.integers(0, 10**6), size=st.sampled_from([(4, 5), (2, 3, 4)]))
    def test_of_grey_is_that_grey_and_of_all_colours_within_the_range(self, seed: int, size: tuple[int, ...]) -> None:
        random = np.random.default_rng(seed)
        grey, image = random.random((1, 1, *size)), random.random((1, 3, *size))
        np.testing.assert_allclose(luma(np.repeat(grey, 3, axis=1)), grey, atol=1e-12)
        assert (luma(image) >= image.min(axis=1, keepdims=True) - 1e-12).all()
        assert (luma(image) <= image.max(axis=1, keepdims=True) + 1e-12).all()


class TestColourDifferences:
    def test_are_scikit_image_s(self, of_either_kind: Callable) -> None:
        """Whose Cb and Cr go from 16 to 240."""
        image = channels_first(CUBE)
        studio = rgb2ycbcr(image, channel_axis=1)
        for found, wanted in zip(colour_differences(of_either_kind(image)), (studio[:, 1:2], studio[:, 2:3]), strict=True):
            assert found.shape == (1, 1, 17, 289)
            np.testing.assert_allclose(np.asarray(found), (wanted - 128) / 224, atol=1e-5)

    def test_are_pillow_s_within_rounding(self) -> None:
        jpeg = np.asarray(Image.fromarray(CUBE).convert("YCbCr")).astype(float)
        for part, found in enumerate(colour_differences(channels_first(CUBE)), start=1):
            assert np.abs(255 * found[0, 0] + 128 - jpeg[..., part]).max() <= 1.01

    def test_are_from_minus_a_half_to_a_half(self) -> None:
        for found in colour_differences(channels_first(CUBE)):
            assert (found.min(), found.max()) == pytest.approx((-0.5, 0.5))

    def test_of_grey_are_none(self) -> None:
        grey = np.repeat(np.random.default_rng(0).random((1, 1, 4, 5)), 3, axis=1)
        for found in colour_differences(grey):
            np.testing.assert_allclose(found, 0, atol=1e-12)

    def test_give_red_and_blue_back(self) -> None:
        """Of the decoder: R = Y + 1.402 Cr, B = Y + 1.772 Cb."""
        image = channels_first(CUBE)
        blue, red = colour_differences(image)
        np.testing.assert_allclose(luma(image) + 1.402 * red, image[:, :1], atol=1e-12)
        np.testing.assert_allclose(luma(image) + 1.772 * blue, image[:, 2:], atol=1e-12)


class TestChroma:
    def test_is_the_distance_from_grey_in_scikit_image_s_plane(self) -> None:
        image = channels_first(CUBE)
        studio = rgb2ycbcr(image, channel_axis=1)
        found = chroma(image)
        assert found.shape == (1, 1, 17, 289)
        np.testing.assert_allclose(found[:, 0], np.hypot(studio[:, 1] - 128, studio[:, 2] - 128) / 224, atol=1e-5)

    def test_is_in_the_image_s_units(self) -> None:
        image = np.random.default_rng(0).random((1, 3, 4, 5))
        np.testing.assert_allclose(chroma(255 * image), 255 * chroma(image))


class TestGreyLevels:
    @settings(max_examples=50, deadline=None)
    @given(channels=arrays.arrays(np.uint8, st.tuples(st.just(3), st.integers(1, 4), st.integers(1, 4))))
    def test_are_the_luma_rounded(self, channels: np.ndarray) -> None:
        found = grey_levels(channels)
        assert found.dtype == np.uint8
        assert np.abs(found - np.tensordot([0.299, 0.587, 0.114], channels, axes=1)).max() <= 0.5 + 1e-4

    @pytest.mark.parametrize("count", [1, 3])
    def test_of_grey_are_these(self, count: int) -> None:
        grey = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
        np.testing.assert_array_equal(grey_levels(np.repeat(grey, count, axis=0)), grey[0])

"""A stem for another number of channels answers grey images as the old one did."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from fuse4seg.networks.stem import spread_over

Images = Callable[..., torch.Tensor]


class TestSpreadOver:
    def test_is_the_mean_scaled_so_that_the_sum_stays(self) -> None:
        """By hand: 1 + 2 + 6 over two channels."""
        assert spread_over(torch.tensor([[1.0, 2.0, 6.0], [0.0, -1.0, 1.0]]), 2).tolist() == [[4.5, 4.5], [0.0, 0.0]]

    @pytest.mark.parametrize("axes", [2, 3])
    @settings(deadline=None, max_examples=30)
    @given(before=st.integers(1, 5), after=st.integers(1, 5), seed=st.integers(0, 99))
    def test_answers_a_grey_image_as_before(self, random_images: Images, axes: int, before: int, after: int, seed: int) -> None:
        stem = random_images(4, before, *[3] * axes, seed=seed) - 0.5
        grey = random_images(2, 1, *[6] * axes, seed=seed + 1)
        convolve = (functional.conv2d, functional.conv3d)[axes - 2]
        found = convolve(grey.expand(-1, after, *grey.shape[2:]), spread_over(stem, after))
        torch.testing.assert_close(found, convolve(grey.expand(-1, before, *grey.shape[2:]), stem), rtol=1e-4, atol=1e-5)

    def test_answers_the_mean_of_channels_that_differ(self, random_images: Images) -> None:
        stem, image = random_images(4, 2, 3, 3), random_images(1, 3, 8, 8, seed=1)
        mean = image.mean(dim=1, keepdim=True).expand(-1, 2, -1, -1)
        torch.testing.assert_close(functional.conv2d(image, spread_over(stem, 3)), functional.conv2d(mean, stem))

    def test_leaves_the_old_weights_alone(self) -> None:
        stem = torch.ones(2, 1, 3, 3)
        spread_over(stem, 1).zero_()
        assert float(stem.min()) == 1

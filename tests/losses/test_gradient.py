"""The gradient magnitude: against scipy's Sobel filter, and where it is 0."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from fuse4seg.losses.gradient import gradient_magnitude

SHAPES = [(2, 3, 7, 9), (1, 2, 5, 6, 7), (1, 1, 1, 8)]


class TestGradientMagnitude:
    @pytest.mark.parametrize("shape", SHAPES)
    def test_matches_scipy_sobel_with_replicated_border(self, shape: tuple[int, ...]) -> None:
        images = torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        axes = len(shape) - 2
        for magnitude, image in zip(gradient_magnitude(images).flatten(0, 1), images.flatten(0, 1), strict=True):
            sobel = [ndimage.sobel(image.numpy(), axis=axis, mode="nearest") for axis in range(axes)]
            expected = sum(np.abs(derivative) for derivative in sobel) / (2 * 4 ** (axes - 1))
            np.testing.assert_allclose(magnitude.numpy(), expected, atol=1e-12)

    @given(value=st.floats(0, 1, width=32))
    @settings(deadline=None, max_examples=20)
    def test_is_exactly_zero_for_a_constant_image(self, value: float) -> None:
        assert gradient_magnitude(torch.full((1, 2, 4, 5, 6), value)).abs().max() == 0

    def test_has_a_finite_gradient_at_a_constant_image(self) -> None:
        images = torch.full((1, 1, 6, 6), 0.3, requires_grad=True)
        gradient_magnitude(images).sum().backward()
        assert images.grad.isfinite().all()

    def test_is_half_the_height_of_a_step_on_both_of_its_sides(self) -> None:
        images = torch.zeros(1, 1, 4, 6)
        images[..., 3:] = 0.8
        expected = torch.tensor([0, 0, 0.4, 0.4, 0, 0]).expand(1, 1, 4, 6)
        torch.testing.assert_close(gradient_magnitude(images), expected)

    def test_is_the_same_for_a_volume_of_equal_slices(self) -> None:
        images = torch.rand(1, 2, 8, 9, generator=torch.Generator().manual_seed(1))
        volume = images.unsqueeze(2).expand(1, 2, 5, 8, 9)
        torch.testing.assert_close(gradient_magnitude(volume)[:, :, 2], gradient_magnitude(images))

    def test_gradients_agree_with_finite_differences(self) -> None:
        images = torch.rand(1, 1, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        assert torch.autograd.gradcheck(gradient_magnitude, images.requires_grad_())

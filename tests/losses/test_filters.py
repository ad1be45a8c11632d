"""Filters against SciPy, where they are 0, and means over what is present."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from fuse4seg.losses.filters import gaussian_means, gradient_magnitude, mean_of_present


class TestGaussianMeans:
    @pytest.mark.parametrize(("window", "sigma"), [(11, 1.5), (5, 1.0), (1, 1.0)])
    def test_are_scipy_s_inside(self, window: int, sigma: float) -> None:
        image = np.random.default_rng(0).random((20, 23))
        found = gaussian_means(torch.from_numpy(image), axes=2, window=window, sigma=sigma).numpy()
        radius = window // 2
        inside = tuple(slice(radius, extent - radius) for extent in image.shape)
        np.testing.assert_allclose(found, ndimage.gaussian_filter(image, sigma, radius=radius)[inside], rtol=1e-12)

    def test_shrink_the_window_on_a_short_axis(self) -> None:
        image = torch.rand(4, 30, dtype=torch.float64)
        found = gaussian_means(image, axes=2, window=11, sigma=1.5)
        assert found.shape == (2, 20)

    def test_leave_other_axes_alone(self) -> None:
        images = torch.rand(3, 2, 12, 12)
        alone = gaussian_means(images[2, 1], axes=2, window=5, sigma=1.0)
        torch.testing.assert_close(gaussian_means(images, axes=2, window=5, sigma=1.0)[2, 1], alone)


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


VALUES = torch.tensor([[1.0, 2.0], [4.0, 9.0]])


class TestMeanOfPresent:
    def test_is_the_mean_of_all_by_default(self) -> None:
        assert mean_of_present(VALUES) == 4

    def test_passes_over_what_is_absent(self) -> None:
        assert mean_of_present(VALUES, torch.tensor([[True, False], [True, False]])) == 2.5

    def test_is_zero_where_nothing_is_present(self) -> None:
        assert mean_of_present(VALUES, torch.zeros(2, 2, dtype=torch.bool)) == 0

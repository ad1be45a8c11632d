"""Gaussian means: against SciPy, on short axes, and along the axes asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from fuse4seg.losses.window import gaussian_means


class TestGaussianMeans:
    @pytest.mark.parametrize(("window", "sigma"), [(11, 1.5), (5, 1.0), (1, 1.0)])
    def test_are_scipy_s_inside(self, window: int, sigma: float) -> None:
        image = np.random.default_rng(0).random((20, 23))
        found = gaussian_means(torch.from_numpy(image), axes=2, window=window, sigma=sigma).numpy()
        radius = window // 2
        inside = tuple(slice(radius, extent - radius) for extent in image.shape)
        np.testing.assert_allclose(found, gaussian_filter(image, sigma, radius=radius)[inside], rtol=1e-12)

    def test_shrink_the_window_on_a_short_axis(self) -> None:
        image = torch.rand(4, 30, dtype=torch.float64)
        found = gaussian_means(image, axes=2, window=11, sigma=1.5)
        assert found.shape == (2, 20)

    def test_leave_other_axes_alone(self) -> None:
        images = torch.rand(3, 2, 12, 12)
        alone = gaussian_means(images[2, 1], axes=2, window=5, sigma=1.0)
        torch.testing.assert_close(gaussian_means(images, axes=2, window=5, sigma=1.0)[2, 1], alone)

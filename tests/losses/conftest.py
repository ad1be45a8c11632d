"""Images that all loss tests share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter


@pytest.fixture(scope="session")
def smooth_images() -> Callable[..., torch.Tensor]:
    """Function of a shape (B, N, Y, X) and a seed that gives grey structures with some noise, on a black ground, in [0, 1]."""

    def make(*shape: int, seed: int = 0) -> torch.Tensor:
        noise = np.random.default_rng(seed).random(shape)
        images = gaussian_filter(noise, 2, axes=(2, 3))
        images = (images - images.min()) / np.ptp(images) * 0.9 + 0.1 * noise
        images[:, :, :6] = images[..., -7:] = 0
        return torch.from_numpy(images).float()

    return make

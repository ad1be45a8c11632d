"""Images that fusion metrics are tested on."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter


def head(seed: int, shape: tuple[int, int] = (64, 72)) -> np.ndarray:
    """Smooth grey structures in 0..255 on a black ground."""
    random = np.random.default_rng(seed)
    image = gaussian_filter(random.random(shape), 2) + 0.05 * random.random(shape)
    image = 255 * (image - image.min()) / np.ptp(image)
    image[:12] = image[:, -9:] = 0
    return image


@pytest.fixture
def sources() -> list[np.ndarray]:
    """Two sources, float in 0..255."""
    return [head(0), head(1)]


@pytest.fixture
def fused(sources: list[np.ndarray]) -> np.ndarray:
    """Their voxelwise maximum, blurred a little and noisy."""
    noise = np.random.default_rng(2).normal(0, 4, sources[0].shape)
    return np.clip(gaussian_filter(np.maximum(*sources), 0.5) + noise, 0, 255)

"""SSIM against scikit-image, and its laws."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.metrics import structural_similarity as reference

from fuse4seg.evaluation.ssim import ssim


@pytest.mark.parametrize("data_range", [255.0, 1.0])
def test_is_that_of_scikit_image(data_range: float, fused: np.ndarray, sources: list[np.ndarray]) -> None:
    expected = sum(reference(fused, source, data_range=data_range, gaussian_weights=True, sigma=1.5,
                             use_sample_covariance=False) for source in sources)
    assert ssim(fused, sources, data_range=data_range) == pytest.approx(expected, abs=1e-10)


def test_of_equal_images_is_the_number_of_sources(fused: np.ndarray) -> None:
    assert ssim(fused, [fused, fused]) == pytest.approx(2.0)


def test_is_symmetric_in_the_sources(fused: np.ndarray, sources: list[np.ndarray]) -> None:
    assert ssim(fused, sources) == pytest.approx(ssim(fused, sources[::-1]))


def test_needs_one_whole_window() -> None:
    with pytest.raises(ValueError, match=r"11 voxels.*\(10, 40\)"):
        ssim(np.zeros((10, 40)), [np.zeros((10, 40))] * 2)


def test_needs_a_range() -> None:
    with pytest.raises(ValueError, match="above 0, got 0"):
        ssim(np.zeros((20, 20)), [np.zeros((20, 20))] * 2, data_range=0)

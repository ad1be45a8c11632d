"""SSIM: against scikit-image, on short axes, and on images it must not accept."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from fuse4seg.losses.ssim import ssim, ssim_of_each


def similar_images(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    first = torch.rand(shape, generator=random)
    return first, (0.7 * first + 0.3 * torch.rand(shape, generator=random)).clamp(0, 1)


def reference(first: torch.Tensor, second: torch.Tensor, *, data_range: float = 1.0) -> float:
    pairs = zip(first.flatten(0, 1).double().numpy(), second.flatten(0, 1).double().numpy(), strict=True)
    return float(np.mean([structural_similarity(one, other, gaussian_weights=True, use_sample_covariance=False,
                                                sigma=1.5, data_range=data_range) for one, other in pairs]))


class TestSSIM:
    @pytest.mark.parametrize("shape", [(2, 3, 16, 23), (2, 1, 11, 12), (1, 2, 14, 12, 13)])
    def test_matches_scikit_image(self, shape: tuple[int, ...]) -> None:
        first, second = similar_images(*shape)
        assert ssim(first, second).item() == pytest.approx(reference(first, second), abs=1e-5)

    def test_matches_scikit_image_on_another_data_range(self) -> None:
        first, second = (255 * images for images in similar_images(1, 1, 20, 20))
        expected = reference(first, second, data_range=255)
        assert ssim(first, second, data_range=255).item() == pytest.approx(expected, abs=1e-5)

    def test_matches_scikit_image_on_images_that_are_flat_in_places(self) -> None:
        first, second = similar_images(1, 2, 24, 24)
        first[..., :12], second[..., :14] = 1, 1
        assert ssim(first, second).item() == pytest.approx(reference(first, second), abs=1e-5)

    def test_is_one_for_equal_images(self) -> None:
        images, _ = similar_images(1, 2, 12, 12)
        assert ssim(images, images.clone()).item() == pytest.approx(1, abs=1e-6)

    def test_of_a_volume_of_one_slice_is_that_of_the_slice(self) -> None:
        first, second = similar_images(2, 2, 16, 16)
        torch.testing.assert_close(ssim(first.unsqueeze(2), second.unsqueeze(2)), ssim(first, second))

    def test_shrinks_the_window_to_the_largest_odd_width_of_a_short_axis(self) -> None:
        first, second = similar_images(1, 1, 4, 5)
        rows, columns = (np.exp(-((np.arange(width) - width // 2) ** 2) / 4.5) for width in (3, 5))
        weights = np.outer(rows, columns) / (rows.sum() * columns.sum())
        values = []
        for row in range(2):
            one, other = (images[0, 0, row:row + 3].double().numpy() for images in (first, second))
            mean_one, mean_other = (weights * one).sum(), (weights * other).sum()
            variances = (weights * (one - mean_one) ** 2).sum() + (weights * (other - mean_other) ** 2).sum()
            covariance = (weights * (one - mean_one) * (other - mean_other)).sum()
            values.append((2 * mean_one * mean_other + 1e-4) * (2 * covariance + 9e-4)
                          / ((mean_one**2 + mean_other**2 + 1e-4) * (variances + 9e-4)))
        assert ssim(first, second).item() == pytest.approx(np.mean(values), abs=1e-6)

    def test_is_as_precise_under_autocast(self) -> None:
        first, second = similar_images(1, 1, 16, 16)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            similarity = ssim(first, second)
        assert similarity.dtype == torch.float32
        assert similarity.item() == pytest.approx(reference(first, second), abs=1e-5)

    def test_gradients_agree_with_finite_differences(self) -> None:
        first, second = (images.double().requires_grad_() for images in similar_images(1, 1, 6, 7))
        assert torch.autograd.gradcheck(lambda one, other: ssim(one, other, window=5), (first, second))

    def test_refuses_images_of_different_shapes(self) -> None:
        with pytest.raises(ValueError, match=r"\(1, 1, 8, 8\) and \(1, 2, 8, 8\)"):
            ssim(torch.zeros(1, 1, 8, 8), torch.zeros(1, 2, 8, 8))

    @pytest.mark.parametrize("window", [0, 8, -3])
    def test_refuses_a_window_without_a_middle(self, window: int) -> None:
        with pytest.raises(ValueError, match="odd"):
            ssim(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8), window=window)


class TestSSIMOfEach:
    @pytest.mark.parametrize("channels", [1, 3])
    def test_is_scikit_image_s_of_each_image_and_channel(self, channels: int) -> None:
        """One channel is compared with each of the others."""
        first, second = similar_images(2, 3, 16, 23)
        first = first[:, :channels]
        found = ssim_of_each(first, second)
        images = first.expand_as(second)
        expected = [[reference(images[case:case + 1, channel:channel + 1], second[case:case + 1, channel:channel + 1])
                     for channel in range(3)] for case in range(2)]
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)

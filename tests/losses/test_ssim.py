"""SSIM and its losses: against scikit-image and the metric, on short axes, whom they favour, and where modalities are absent."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from fuse4seg.evaluation.ssim import ssim as metric_of
from fuse4seg.losses.ssim import balance_loss, content_loss, ssim, ssim_loss, ssim_of_each

Images = Callable[..., torch.Tensor]


def similar_images(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    first = torch.rand(shape, generator=random)
    return first, (0.7 * first + 0.3 * torch.rand(shape, generator=random)).clamp(0, 1)


def reference(first: torch.Tensor, second: torch.Tensor) -> float:
    pairs = zip(first.flatten(0, 1).double().numpy(), second.flatten(0, 1).double().numpy(), strict=True)
    return float(np.mean([structural_similarity(one, other, gaussian_weights=True, use_sample_covariance=False,
                                                sigma=1.5, data_range=1.0) for one, other in pairs]))


class TestSSIM:
    @pytest.mark.parametrize("shape", [(2, 3, 16, 23), (2, 1, 11, 12), (1, 2, 14, 12, 13)])
    def test_matches_scikit_image(self, shape: tuple[int, ...]) -> None:
        first, second = similar_images(*shape)
        assert ssim(first, second).item() == pytest.approx(reference(first, second), abs=1e-5)

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
        assert torch.autograd.gradcheck(ssim, (first, second))

    def test_refuses_images_of_different_shapes(self) -> None:
        with pytest.raises(ValueError, match=r"\(1, 1, 8, 8\) and \(1, 2, 8, 8\)"):
            ssim(torch.zeros(1, 1, 8, 8), torch.zeros(1, 2, 8, 8))


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


def grey(images: torch.Tensor) -> list[np.ndarray]:
    return list(255 * images.double().numpy())


class TestSsimLoss:
    def test_is_zero_when_all_sources_are_the_fused_image(self, smooth_images: Images) -> None:
        fused = smooth_images(1, 1, 20, 20)
        assert ssim_loss(fused, fused.repeat(1, 3, 1, 1)).item() == pytest.approx(0, abs=1e-6)

    def test_works_on_volumes(self, random_images: Images) -> None:
        fused = random_images(1, 1, 6, 14, 14)
        assert 0 < ssim_loss(fused, random_images(1, 2, 6, 14, 14, seed=1)) < 2


class TestBalanceLoss:
    @pytest.mark.parametrize("modalities", [2, 3])
    def test_is_the_mean_square_of_what_the_metric_lacks(self, smooth_images: Images, modalities: int) -> None:
        """The metric sums over two sources: of a source given twice it is twice the SSIM to that source."""
        sources = smooth_images(1, modalities, 64, 72)
        fused = (sources.amax(dim=1, keepdim=True) + smooth_images(1, 1, 64, 72, seed=1) / 3).clamp(0, 1)
        each = [metric_of(grey(fused[0])[0], [source] * 2) / 2 for source in grey(sources[0])]
        expected = np.mean([(1 - similarity) ** 2 for similarity in each])
        assert balance_loss(fused, sources).item() == pytest.approx(expected, abs=1e-5)

    def test_asks_most_for_the_source_that_is_least_alike(self, smooth_images: Images) -> None:
        """At an image that is one source, both losses pull towards the other; this one in proportion to what the other lacks."""
        first, second = smooth_images(1, 2, 64, 72).split(1, dim=1)
        sources = torch.cat([first, second / 2], dim=1)

        def slope(loss: Callable[..., torch.Tensor]) -> float:
            share = torch.tensor(0.0, requires_grad=True)
            loss((1 - share) * sources[:, :1] + share * sources[:, 1:], sources).backward()
            return share.grad.item()

        lacking = 2 * ssim_loss(sources[:, :1], sources).item()
        assert slope(balance_loss) == pytest.approx(2 * lacking * slope(ssim_loss), rel=1e-3)

    def test_is_the_mean_over_cases_and_the_modalities_they_have(self, smooth_images: Images) -> None:
        sources, fused = smooth_images(2, 3, 48, 44), smooth_images(2, 1, 48, 44, seed=1)
        present = torch.tensor([[True, True, False], [False, True, True]])
        each = [balance_loss(fused[case:case + 1], sources[case:case + 1, present[case]]) for case in range(2)]
        found = balance_loss(fused, sources * present.view(2, 3, 1, 1), present=present)
        torch.testing.assert_close(found, torch.stack(each).mean())

    def test_is_zero_and_flat_when_all_sources_are_the_fused_image(self, smooth_images: Images) -> None:
        fused = smooth_images(1, 1, 44, 44).requires_grad_()
        loss = balance_loss(fused, fused.detach().repeat(1, 3, 1, 1))
        loss.backward()
        assert loss.item() == pytest.approx(0, abs=1e-10)
        assert fused.grad.abs().max() < 1e-4

    def test_has_a_finite_gradient_on_constant_images(self) -> None:
        fused = torch.zeros(1, 1, 44, 44, requires_grad=True)
        balance_loss(fused, torch.zeros(1, 2, 44, 44)).backward()
        assert fused.grad.isfinite().all()

    def test_works_on_volumes(self, random_images: Images) -> None:
        fused = random_images(1, 1, 6, 14, 14)
        assert 0 < balance_loss(fused, random_images(1, 2, 6, 14, 14, seed=1)) < 4


class TestContentLoss:
    @pytest.mark.parametrize("shape", [(1, 3, 16, 18), (1, 2, 12, 13, 14)])
    def test_is_the_sum_of_each_modality_by_numpy_and_scikit_image(self, random_images: Images, shape: tuple[int, ...]) -> None:
        sources, reconstructed = random_images(*shape), random_images(*shape, seed=1)
        expected = 0.0
        for one, other in zip(sources[0].double().numpy(), reconstructed[0].double().numpy(), strict=True):
            similarity = structural_similarity(one, other, gaussian_weights=True, use_sample_covariance=False,
                                               data_range=1)
            expected += np.mean((one - other) ** 2) + 1 - similarity
        assert content_loss(reconstructed, sources).item() == pytest.approx(expected, abs=1e-5)

    def test_is_zero_for_a_perfect_reconstruction(self, random_images: Images) -> None:
        sources = random_images(2, 2, 16, 16)
        assert content_loss(sources.clone(), sources).item() == pytest.approx(0, abs=1e-5)

    def test_does_not_change_when_the_batch_is_repeated(self, random_images: Images) -> None:
        sources, reconstructed = random_images(1, 2, 16, 16), random_images(1, 2, 16, 16, seed=1)
        repeated = content_loss(reconstructed.repeat(3, 1, 1, 1), sources.repeat(3, 1, 1, 1))
        torch.testing.assert_close(repeated, content_loss(reconstructed, sources))

    def test_is_the_mean_over_all_modalities_there_are(self, random_images: Images) -> None:
        """Times their number, as where all are there; two are of the first case, and one of the second."""
        sources, reconstructed = random_images(2, 3, 16, 18), random_images(2, 3, 16, 18, seed=1)
        present = torch.tensor([[True, False, True], [False, True, False]])
        there = [(0, 0), (0, 2), (1, 1)]
        each = [content_loss(reconstructed[None, None, case, one], sources[None, None, case, one]) for case, one in there]
        torch.testing.assert_close(content_loss(reconstructed, sources, present=present), 3 * torch.stack(each).mean())
        whole = content_loss(reconstructed, sources, present=torch.ones(2, 3, dtype=torch.bool))
        torch.testing.assert_close(whole, content_loss(reconstructed, sources))

    @pytest.mark.parametrize("present", [None, torch.ones(1, 2, dtype=torch.bool)])
    def test_refuses_a_reconstruction_of_another_shape(self, random_images: Images, present: torch.Tensor | None) -> None:
        with pytest.raises(ValueError, match="one shape"):
            content_loss(random_images(1, 1, 16, 16), random_images(1, 2, 16, 16), present=present)

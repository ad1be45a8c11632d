"""The SSIM loss: against the metric SSIM, and where modalities are absent."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from fuse4seg.evaluation.ssim import ssim
from fuse4seg.losses.ssim import ssim_loss

Images = Callable[..., torch.Tensor]


def grey(images: torch.Tensor) -> list[np.ndarray]:
    return list(255 * images.double().numpy())


class TestSsimLoss:
    @pytest.mark.parametrize("modalities", [2, 3])
    def test_is_one_less_the_metric_s_share_of_each_source(self, smooth_images: Images, modalities: int) -> None:
        """The metric sums over two sources, and is the mean of that over all pairs of more."""
        sources = smooth_images(1, modalities, 64, 72)
        fused = (sources.amax(dim=1, keepdim=True) + smooth_images(1, 1, 64, 72, seed=1) / 3).clamp(0, 1)
        metric = ssim(grey(fused[0])[0], grey(sources[0]))
        assert ssim_loss(fused, sources).item() == pytest.approx(1 - metric / 2, abs=1e-5)

    def test_is_the_mean_over_cases_and_the_modalities_they_have(self, smooth_images: Images) -> None:
        sources, fused = smooth_images(2, 3, 48, 44), smooth_images(2, 1, 48, 44, seed=1)
        present = torch.tensor([[True, True, False], [False, True, True]])
        each = [ssim_loss(fused[case:case + 1], sources[case:case + 1, present[case]]) for case in range(2)]
        found = ssim_loss(fused, sources * present.view(2, 3, 1, 1), present=present)
        torch.testing.assert_close(found, torch.stack(each).mean())

    def test_does_not_depend_on_the_order_of_sources(self, smooth_images: Images) -> None:
        sources, fused = smooth_images(1, 3, 48, 44), smooth_images(1, 1, 48, 44, seed=1)
        torch.testing.assert_close(ssim_loss(fused, sources.flip(1)), ssim_loss(fused, sources))

    def test_has_a_finite_gradient_on_constant_images(self) -> None:
        fused = torch.zeros(1, 1, 44, 44, requires_grad=True)
        ssim_loss(fused, torch.zeros(1, 2, 44, 44)).backward()
        assert fused.grad.isfinite().all()

    def test_goes_down_along_its_gradient(self, smooth_images: Images) -> None:
        sources = smooth_images(1, 2, 44, 44)
        fused = smooth_images(1, 1, 44, 44, seed=1).requires_grad_()
        before = ssim_loss(fused, sources)
        before.backward()
        step = fused.grad * (1e-3 / fused.grad.abs().max())
        assert ssim_loss(fused.detach() - step, sources) < before

    def test_is_zero_when_all_sources_are_the_fused_image(self, smooth_images: Images) -> None:
        fused = smooth_images(1, 1, 20, 20)
        assert ssim_loss(fused, fused.repeat(1, 3, 1, 1)).item() == pytest.approx(0, abs=1e-6)

    def test_works_on_volumes(self, random_images: Images) -> None:
        fused = random_images(1, 1, 6, 14, 14)
        assert 0 < ssim_loss(fused, random_images(1, 2, 6, 14, 14, seed=1)) < 2

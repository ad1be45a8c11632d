"""The balance loss: against the metric SSIM, whom it favours, and where modalities are absent."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from fuse4seg.evaluation.ssim import ssim
from fuse4seg.losses.balance import balance_loss
from fuse4seg.losses.ssim import ssim_loss

Images = Callable[..., torch.Tensor]


def grey(image: torch.Tensor) -> np.ndarray:
    return 255 * image.double().numpy()


class TestBalanceLoss:
    @pytest.mark.parametrize("modalities", [2, 3])
    def test_is_the_mean_square_of_what_the_metric_lacks(self, smooth_images: Images, modalities: int) -> None:
        """The metric sums over two sources: of a source given twice it is twice the SSIM to that source."""
        sources = smooth_images(1, modalities, 64, 72)
        fused = (sources.amax(dim=1, keepdim=True) + smooth_images(1, 1, 64, 72, seed=1) / 3).clamp(0, 1)
        each = [ssim(grey(fused[0, 0]), [grey(source)] * 2) / 2 for source in sources[0]]
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

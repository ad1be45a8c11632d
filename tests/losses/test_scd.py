"""The SCD loss: against the metric SCD, and where modalities are absent."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from fuse4seg.evaluation.grey_statistics import scd
from fuse4seg.losses.scd import scd_loss

Images = Callable[..., torch.Tensor]


def grey(images: torch.Tensor) -> list[np.ndarray]:
    return list(255 * images.double().numpy())


class TestScdLoss:
    @pytest.mark.parametrize("modalities", [2, 3])
    def test_is_one_less_the_metric_s_share_of_each_source(self, smooth_images: Images, modalities: int) -> None:
        """The metric sums over two sources, and is the mean of that over all pairs of more."""
        sources = smooth_images(1, modalities, 64, 72)
        fused = (sources.amax(dim=1, keepdim=True) + smooth_images(1, 1, 64, 72, seed=1) / 3).clamp(0, 1)
        metric = scd(grey(fused[0])[0], grey(sources[0]))
        assert scd_loss(fused, sources).item() == pytest.approx(1 - metric / 2, abs=1e-3)

    def test_is_the_mean_over_cases_and_the_modalities_they_have(self, smooth_images: Images) -> None:
        sources, fused = smooth_images(2, 3, 48, 44), smooth_images(2, 1, 48, 44, seed=1)
        present = torch.tensor([[True, True, False], [False, True, True]])
        each = [scd_loss(fused[case:case + 1], sources[case:case + 1, present[case]]) for case in range(2)]
        found = scd_loss(fused, sources * present.view(2, 3, 1, 1), present=present)
        torch.testing.assert_close(found, torch.stack(each).mean())

    def test_does_not_depend_on_the_order_of_sources(self, smooth_images: Images) -> None:
        sources, fused = smooth_images(1, 3, 48, 44), smooth_images(1, 1, 48, 44, seed=1)
        torch.testing.assert_close(scd_loss(fused, sources.flip(1)), scd_loss(fused, sources))

    def test_has_a_finite_gradient_on_constant_images(self) -> None:
        fused = torch.zeros(1, 1, 44, 44, requires_grad=True)
        scd_loss(fused, torch.zeros(1, 2, 44, 44)).backward()
        assert fused.grad.isfinite().all()

    def test_goes_down_along_its_gradient(self, smooth_images: Images) -> None:
        sources = smooth_images(1, 2, 44, 44)
        fused = smooth_images(1, 1, 44, 44, seed=1).requires_grad_()
        before = scd_loss(fused, sources)
        before.backward()
        step = fused.grad * (1e-3 / fused.grad.abs().max())
        assert scd_loss(fused.detach() - step, sources) < before

    def test_is_lowest_for_the_sum_of_two_sources(self, smooth_images: Images) -> None:
        sources = smooth_images(1, 2, 20, 20)
        assert scd_loss(sources.sum(dim=1, keepdim=True), sources).item() == pytest.approx(0, abs=1e-4)

    def test_is_zero_where_there_is_one_source(self, smooth_images: Images) -> None:
        sources = smooth_images(1, 2, 20, 20)
        assert scd_loss(sources[:, :1], sources[:, 1:]) == 0
        assert scd_loss(sources[:, :1], sources, present=torch.tensor([[True, False]])) == 0

    def test_of_a_volume_of_equal_slices_is_that_of_the_slice(self, smooth_images: Images) -> None:
        sources, fused = smooth_images(1, 2, 20, 20), smooth_images(1, 1, 20, 20, seed=1)
        volumes = (images.unsqueeze(2).expand(-1, -1, 5, -1, -1) for images in (fused, sources))
        torch.testing.assert_close(scd_loss(*volumes), scd_loss(fused, sources))

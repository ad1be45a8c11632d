"""The SCD loss: against the metric SCD, and where modalities are absent."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from fuse4seg.losses.scd import scd_loss

Images = Callable[..., torch.Tensor]


class TestScdLoss:
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

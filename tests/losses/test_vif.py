"""The VIF loss: against the metric VIF, and where modalities are absent."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from fuse4seg.losses.vif import vif_loss

Images = Callable[..., torch.Tensor]


class TestVifLoss:
    def test_is_zero_when_all_sources_are_the_fused_image(self, smooth_images: Images) -> None:
        fused = smooth_images(1, 1, 48, 44)
        assert vif_loss(fused, fused.repeat(1, 3, 1, 1)).item() == pytest.approx(0, abs=2e-3)

    def test_is_one_for_a_constant_source_and_for_an_inverted_one(self, smooth_images: Images) -> None:
        fused = smooth_images(1, 1, 48, 44)
        assert vif_loss(fused, torch.full_like(fused, 0.5)).item() == pytest.approx(1, abs=1e-3)
        assert vif_loss(1 - fused, fused).item() == pytest.approx(1, abs=1e-3)

    def test_of_a_volume_is_that_of_its_slices_together(self, smooth_images: Images) -> None:
        sources, fused = smooth_images(1, 2, 48, 44), smooth_images(1, 1, 48, 44, seed=1)
        volumes = (images.unsqueeze(2).expand(-1, -1, 5, -1, -1) for images in (fused, sources))
        torch.testing.assert_close(vif_loss(*volumes), vif_loss(fused, sources))

    @pytest.mark.parametrize("size", [4, 16, 20])
    def test_of_small_patches_takes_the_scales_that_fit(self, smooth_images: Images, size: int) -> None:
        sources, fused = smooth_images(1, 2, 48, 44), smooth_images(1, 1, 48, 44, seed=1)
        corner = (..., slice(6, 6 + size), slice(0, size))
        assert 0 < vif_loss(fused[corner], sources[corner]) < 1
        assert vif_loss(sources[:, :1][corner], sources[:, :1][corner]).item() == pytest.approx(0, abs=2e-3)

"""The texture loss: zero, scale and order laws, and a value by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fuse4seg.losses.texture import texture_loss

RandomImages = Callable[..., torch.Tensor]


class TestTextureLoss:
    @pytest.mark.parametrize("shape", [(2, 1, 8, 9), (1, 1, 5, 6, 7)])
    def test_is_zero_when_fused_equals_the_only_source(self, random_images: RandomImages,
                                                       shape: tuple[int, ...]) -> None:
        fused = random_images(*shape)
        assert texture_loss(fused, fused.clone()) == 0

    @given(order=st.permutations(range(3)))
    @settings(deadline=None, max_examples=6)
    def test_does_not_depend_on_the_order_of_sources(self, random_images: RandomImages, order: list[int]) -> None:
        fused, sources = random_images(1, 1, 8, 9), random_images(1, 3, 8, 9, seed=1)
        assert texture_loss(fused, sources[:, order]) == texture_loss(fused, sources)

    @given(scale=st.floats(0.01, 1))
    @settings(deadline=None, max_examples=20)
    def test_grows_in_proportion_to_the_contrast_of_all_images(self, random_images: RandomImages, scale: float) -> None:
        fused, sources = random_images(1, 1, 8, 9), random_images(1, 2, 8, 9, seed=1)
        torch.testing.assert_close(texture_loss(scale * fused, scale * sources), scale * texture_loss(fused, sources))

    def test_ignores_a_shift_of_brightness(self, random_images: RandomImages) -> None:
        fused, sources = random_images(1, 1, 8, 9) / 2, random_images(1, 2, 8, 9, seed=1)
        torch.testing.assert_close(texture_loss(fused + 0.5, sources), texture_loss(fused, sources))

    def test_matches_a_step_edge_computed_by_hand(self) -> None:
        sources = torch.zeros(1, 2, 4, 10)
        sources[:, 0, :, 5:] = 0.6
        sources[:, 1, :, 5:] = 0.2
        # Without its own edge, the fused image misses 0.3 in two of ten columns.
        torch.testing.assert_close(texture_loss(torch.zeros(1, 1, 4, 10), sources), torch.tensor(0.3 * 2 / 10))

    def test_is_the_same_for_a_volume_of_equal_slices(self, random_images: RandomImages) -> None:
        fused, sources = random_images(1, 1, 8, 9), random_images(1, 2, 8, 9, seed=1)
        volumes = [images.unsqueeze(2).expand(-1, -1, 4, -1, -1) for images in (fused, sources)]
        torch.testing.assert_close(texture_loss(*volumes), texture_loss(fused, sources))

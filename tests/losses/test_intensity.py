"""The intensity loss: its minimum, its symmetry and values by hand."""

from __future__ import annotations

from collections.abc import Callable

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fuse4seg.losses.intensity import intensity_loss

RandomImages = Callable[..., torch.Tensor]


class TestIntensityLoss:
    def test_is_zero_for_the_voxelwise_maximum(self, random_images: RandomImages) -> None:
        sources = random_images(2, 3, 5, 6)
        assert intensity_loss(sources.amax(1, keepdim=True), sources) == 0

    def test_matches_a_value_computed_by_hand(self) -> None:
        fused = torch.tensor([0.5, 0.5]).view(1, 1, 1, 2)
        sources = torch.tensor([[0.2, 0.9], [0.4, 0.1]]).view(1, 2, 1, 2)
        torch.testing.assert_close(intensity_loss(fused, sources), torch.tensor((0.1 + 0.4) / 2))

    @given(order=st.permutations(range(4)))
    @settings(deadline=None, max_examples=10)
    def test_does_not_depend_on_the_order_of_sources(self, random_images: RandomImages, order: list[int]) -> None:
        fused, sources = random_images(1, 1, 3, 4, 5), random_images(1, 4, 3, 4, 5, seed=1)
        assert intensity_loss(fused, sources[:, order]) == intensity_loss(fused, sources)

    def test_pulls_a_dark_voxel_up_and_a_bright_one_down(self) -> None:
        fused = torch.tensor([0.1, 0.9]).view(1, 1, 1, 2).requires_grad_()
        intensity_loss(fused, torch.full((1, 2, 1, 2), 0.5)).backward()
        assert fused.grad.flatten().tolist() == [-0.5, 0.5]

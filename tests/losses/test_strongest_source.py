"""Intensity, texture and edge loss: zero, scale, sign and order laws, and values by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fuse4seg.losses.strongest_source import edge_loss, intensity_loss, texture_loss

Images = Callable[..., torch.Tensor]


class TestIntensityLoss:
    def test_is_zero_for_the_voxelwise_maximum(self, random_images: Images) -> None:
        sources = random_images(2, 3, 5, 6)
        assert intensity_loss(sources.amax(1, keepdim=True), sources) == 0

    def test_matches_a_value_computed_by_hand(self) -> None:
        fused = torch.tensor([0.5, 0.5]).view(1, 1, 1, 2)
        sources = torch.tensor([[0.2, 0.9], [0.4, 0.1]]).view(1, 2, 1, 2)
        torch.testing.assert_close(intensity_loss(fused, sources), torch.tensor((0.1 + 0.4) / 2))

    @given(order=st.permutations(range(4)))
    @settings(deadline=None, max_examples=10)
    def test_does_not_depend_on_the_order_of_sources(self, random_images: Images, order: list[int]) -> None:
        fused, sources = random_images(1, 1, 3, 4, 5), random_images(1, 4, 3, 4, 5, seed=1)
        assert intensity_loss(fused, sources[:, order]) == intensity_loss(fused, sources)

    def test_pulls_a_dark_voxel_up_and_a_bright_one_down(self) -> None:
        fused = torch.tensor([0.1, 0.9]).view(1, 1, 1, 2).requires_grad_()
        intensity_loss(fused, torch.full((1, 2, 1, 2), 0.5)).backward()
        assert fused.grad.flatten().tolist() == [-0.5, 0.5]


class TestTextureLoss:
    @pytest.mark.parametrize("shape", [(2, 1, 8, 9), (1, 1, 5, 6, 7)])
    def test_is_zero_when_fused_equals_the_only_source(self, random_images: Images, shape: tuple[int, ...]) -> None:
        fused = random_images(*shape)
        assert texture_loss(fused, fused.clone()) == 0

    @given(order=st.permutations(range(3)))
    @settings(deadline=None, max_examples=6)
    def test_does_not_depend_on_the_order_of_sources(self, random_images: Images, order: list[int]) -> None:
        fused, sources = random_images(1, 1, 8, 9), random_images(1, 3, 8, 9, seed=1)
        assert texture_loss(fused, sources[:, order]) == texture_loss(fused, sources)

    @given(scale=st.floats(0.01, 1))
    @settings(deadline=None, max_examples=20)
    def test_grows_in_proportion_to_the_contrast_of_all_images(self, random_images: Images, scale: float) -> None:
        fused, sources = random_images(1, 1, 8, 9), random_images(1, 2, 8, 9, seed=1)
        torch.testing.assert_close(texture_loss(scale * fused, scale * sources), scale * texture_loss(fused, sources))

    def test_ignores_a_shift_of_brightness(self, random_images: Images) -> None:
        fused, sources = random_images(1, 1, 8, 9) / 2, random_images(1, 2, 8, 9, seed=1)
        torch.testing.assert_close(texture_loss(fused + 0.5, sources), texture_loss(fused, sources))

    def test_matches_a_step_edge_computed_by_hand(self) -> None:
        sources = torch.zeros(1, 2, 4, 10)
        sources[:, 0, :, 5:] = 0.6
        sources[:, 1, :, 5:] = 0.2
        # Without its own edge, the fused image misses 0.3 in two of ten columns.
        torch.testing.assert_close(texture_loss(torch.zeros(1, 1, 4, 10), sources), torch.tensor(0.3 * 2 / 10))

    def test_is_the_same_for_a_volume_of_equal_slices(self, random_images: Images) -> None:
        fused, sources = random_images(1, 1, 8, 9), random_images(1, 2, 8, 9, seed=1)
        volumes = [images.unsqueeze(2).expand(-1, -1, 4, -1, -1) for images in (fused, sources)]
        torch.testing.assert_close(texture_loss(*volumes), texture_loss(fused, sources))


class TestEdgeLoss:
    def test_is_zero_when_the_fused_image_is_the_only_source(self, random_images: Images) -> None:
        images = random_images(2, 1, 8, 9)
        assert edge_loss(images, images.clone()) == 0

    def test_does_not_see_a_shift_of_brightness(self, random_images: Images) -> None:
        images = random_images(1, 1, 8, 8) / 2
        torch.testing.assert_close(edge_loss(images + 0.25, images), torch.tensor(0.0), atol=1e-6, rtol=0)

    def test_sees_which_side_of_an_edge_is_bright_as_texture_does_not(self) -> None:
        source = torch.zeros(1, 1, 6, 6)
        source[..., 3:] = 1
        assert texture_loss(1 - source, source) == 0
        # One of five differences along a row is 1 instead of -1.
        torch.testing.assert_close(edge_loss(1 - source, source), torch.tensor(2 / 5))

    def test_sees_a_chequerboard_as_texture_does_not(self) -> None:
        rows, columns = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
        board = ((rows + columns) % 2).float().view(1, 1, 8, 8)
        inner = (slice(None), slice(None), slice(1, -1), slice(1, -1))
        assert texture_loss(board, torch.zeros_like(board)) < 0.1
        torch.testing.assert_close(edge_loss(board[inner], torch.zeros_like(board[inner])), torch.tensor(2.0))

    def test_takes_the_steepest_source_at_each_neighbour(self) -> None:
        # Differences along the row: first source 0.1, 0.1; second -0.5, 0; so -0.5 and 0.1 are wanted.
        sources = torch.tensor([[[[0.5, 0.6, 0.7]], [[0.5, 0.0, 0.0]]]])
        wanted = torch.tensor([[[[0.5, 0.0, 0.1]]]])
        torch.testing.assert_close(edge_loss(wanted, sources), torch.tensor(0.0), atol=1e-7, rtol=0)
        torch.testing.assert_close(edge_loss(torch.zeros(1, 1, 1, 3), sources), torch.tensor(0.3))

    def test_does_not_depend_on_the_order_of_sources_nor_on_absent_ones(self, random_images: Images) -> None:
        fused, sources = random_images(1, 1, 8, 8), random_images(1, 4, 8, 8)[:, 1:]
        expected = edge_loss(fused, sources)
        torch.testing.assert_close(edge_loss(fused, sources.flip(1)), expected)
        torch.testing.assert_close(edge_loss(fused, torch.cat([sources, torch.zeros(1, 2, 8, 8)], dim=1)), expected)

    def test_of_a_volume_of_equal_slices_is_that_of_the_slice(self, random_images: Images) -> None:
        fused, sources = random_images(1, 1, 8, 8), random_images(1, 3, 8, 8)[:, 1:]
        volumes = (images.unsqueeze(2).expand(-1, -1, 5, -1, -1) for images in (fused, sources))
        torch.testing.assert_close(edge_loss(*volumes), edge_loss(fused, sources))

"""Space to depth and back: nothing is lost, and the order is that of PyTorch and of a loop over the block."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from fuse4seg.networks.rearrange import depth_to_space, space_to_depth

factors = st.lists(st.integers(1, 4), min_size=2, max_size=3)


def numbered(*shape: int) -> torch.Tensor:
    """Every voxel another number."""
    return torch.arange(torch.Size(shape).numel()).float().view(shape)


class TestSpaceToDepth:
    @given(factors, st.data())
    @settings(deadline=None, max_examples=40)
    def test_is_undone_by_depth_to_space(self, factors: list[int], data: st.DataObject) -> None:
        size = [factor * data.draw(st.integers(1, 3)) for factor in factors]
        images = numbered(2, 3, *size)
        features = space_to_depth(images, factors)
        assert features.shape[2:] == tuple(extent // factor for extent, factor in zip(size, factors, strict=True))
        assert torch.equal(depth_to_space(features, factors), images)

    @pytest.mark.parametrize("factor", [1, 2, 3])
    def test_is_pixel_unshuffle_in_the_same_order_where_factors_are_equal(self, factor: int) -> None:
        images = numbered(2, 3, 6, 12)
        assert torch.equal(space_to_depth(images, (factor, factor)), functional.pixel_unshuffle(images, factor))

    def test_puts_the_last_axis_fastest_and_channels_slowest(self) -> None:
        images, (depth, height, width) = numbered(1, 2, 4, 3, 6), (2, 1, 3)
        expected = [images[:, channel, d::depth, h::height, w::width] for channel, d, h, w
                    in product(range(2), range(depth), range(height), range(width))]
        assert torch.equal(space_to_depth(images, (depth, height, width)), torch.stack(expected, dim=1))

    def test_refuses_a_size_that_is_no_multiple(self) -> None:
        with pytest.raises(RuntimeError):
            space_to_depth(numbered(1, 1, 5, 4), (2, 2))

    def test_refuses_another_number_of_factors(self) -> None:
        with pytest.raises(ValueError, match="zip"):
            space_to_depth(numbered(1, 1, 4, 4), (2, 2, 2))


class TestDepthToSpace:
    @pytest.mark.parametrize("factor", [1, 2, 3])
    def test_is_pixel_shuffle_in_the_same_order_where_factors_are_equal(self, factor: int) -> None:
        features = numbered(2, 36, 3, 2)
        assert torch.equal(depth_to_space(features, (factor, factor)), functional.pixel_shuffle(features, factor))

    @given(factors)
    @settings(deadline=None, max_examples=20)
    def test_is_undone_by_space_to_depth(self, factors: list[int]) -> None:
        features = numbered(1, 2 * torch.Size(factors).numel(), *[2] * len(factors))
        assert torch.equal(space_to_depth(depth_to_space(features, factors), factors), features)

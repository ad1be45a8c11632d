"""Convolutions: axes by operator, sizes by stride, the norm against its formula; space to depth and back."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from fuse4seg.networks.convolution import ChannelNorm, axes_of, conv_block, depth_to_space, space_to_depth


class TestAxesOf:
    @pytest.mark.parametrize(("conv_op", "axes"), [(nn.Conv2d, 2), (nn.Conv3d, 3)])
    def test_counts_spatial_axes(self, conv_op: type[nn.Module], axes: int) -> None:
        assert axes_of(conv_op) == axes

    @pytest.mark.parametrize("conv_op", [nn.Conv1d, nn.ConvTranspose2d, nn.Linear])
    def test_refuses_any_other_operator(self, conv_op: type[nn.Module]) -> None:
        with pytest.raises(ValueError, match="Conv2d or torch.nn.Conv3d"):
            axes_of(conv_op)


class TestConvBlock:
    @pytest.mark.parametrize(("stride", "size"), [(1, (5, 6, 7)), (2, (3, 3, 4)), ((1, 2, 2), (5, 3, 4)),
                                                  ([1, 1, 3], (5, 6, 3))])
    def test_divides_each_axis_by_its_stride_and_rounds_up(self, stride: int | list[int],
                                                           size: tuple[int, ...]) -> None:
        assert conv_block(nn.Conv3d, 2, 3, stride=stride)(torch.rand(1, 2, 5, 6, 7)).shape == (1, 3, *size)

    def test_gives_a_voxel_the_same_value_in_a_patch_as_in_the_whole_slice(self) -> None:
        block, image = conv_block(nn.Conv2d, 1, 4), torch.rand(1, 1, 20, 20, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(block(image)[..., 5:11, 5:11], block(image[..., 4:12, 4:12])[..., 1:-1, 1:-1])


class TestChannelNorm:
    @pytest.mark.parametrize("size", [(3, 4), (2, 3, 4)])
    def test_standardises_the_channels_of_every_voxel(self, size: tuple[int, ...]) -> None:
        features = torch.randn(2, 6, *size, generator=torch.Generator().manual_seed(0)) * 3 + 5
        norm = ChannelNorm(6)
        nn.init.uniform_(norm.weight)
        nn.init.uniform_(norm.bias)
        values = features.numpy().astype(np.float64)
        standard = (values - values.mean(1, keepdims=True)) / np.sqrt(values.var(1, keepdims=True) + 1e-5)
        per_channel = (1, 6) + (1,) * len(size)
        weight, bias = (parameter.detach().numpy().reshape(per_channel) for parameter in (norm.weight, norm.bias))
        expected = standard * weight + bias
        np.testing.assert_allclose(norm(features).detach().numpy(), expected, atol=1e-5)


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

"""Convolutions: axes by operator, sizes by stride, no statistics over space, and the norm against its formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fuse4seg.networks.convolution import ChannelNorm, axes_of, conv_block


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

"""Grid attention: plain softmax attention over pooled keys, however large the image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fuse4seg.networks.grid_attention import GridSelfAttention, from_tokens, pool_to_grid, to_tokens


def attention(axes: int, channels: int = 8, *, heads: int = 2) -> GridSelfAttention:
    torch.manual_seed(0)
    return GridSelfAttention(nn.Conv2d if axes == 2 else nn.Conv3d, channels, heads=heads)


def project(convolution: nn.Module, features: np.ndarray) -> np.ndarray:
    """What a convolution of width 1 does to features (B, C, *S), in float64."""
    weight = convolution.weight.detach().double().numpy().reshape(convolution.out_channels, -1)
    bias = convolution.bias.detach().double().numpy()
    return np.einsum("oc,bc...->bo...", weight, features) + bias.reshape(-1, *[1] * (features.ndim - 2))


class TestPoolToGrid:
    @pytest.mark.parametrize(("size", "grid"), [
        ((8, 8), (8, 8)), ((64, 40), (8, 8)), ((5, 100), (5, 8)), ((17, 3), (8, 3)),
        ((4, 4, 4), (4, 4, 4)), ((32, 20, 9), (4, 4, 4)), ((2, 64, 3), (2, 4, 3)),
    ])
    def test_never_gives_more_than_64_places(self, size: tuple[int, ...], grid: tuple[int, ...]) -> None:
        assert pool_to_grid(torch.rand(2, 3, *size)).shape == (2, 3, *grid)

    def test_averages_blocks(self) -> None:
        features = torch.rand(1, 2, 16, 24, generator=torch.Generator().manual_seed(0))
        expected = features.numpy().reshape(1, 2, 8, 2, 8, 3).mean(axis=(3, 5))
        np.testing.assert_allclose(pool_to_grid(features).numpy(), expected, atol=1e-6)

    def test_leaves_small_features_as_they_are(self) -> None:
        features = torch.rand(1, 2, 3, 4, 2)
        assert torch.equal(pool_to_grid(features), features)


class TestTokens:
    def test_split_channels_into_heads_and_flatten_space(self) -> None:
        features = torch.arange(2 * 6 * 4 * 5).float().view(2, 6, 4, 5)
        tokens = to_tokens(features, 3)
        assert tokens.shape == (2, 3, 20, 2)
        assert torch.equal(tokens[1, 2, 7], features[1, 4:6, 1, 2])

    @pytest.mark.parametrize("size", [[4, 5], [2, 3, 4]])
    def test_come_back_unchanged(self, size: list[int]) -> None:
        features = torch.rand(2, 6, *size)
        assert torch.equal(from_tokens(to_tokens(features, 3), size), features)


class TestGridSelfAttention:
    @pytest.mark.parametrize("size", [(16, 24), (6, 7), (8, 4, 8)])
    def test_equals_softmax_attention_written_out(self, size: tuple[int, ...]) -> None:
        layer = attention(len(size))
        features = torch.randn(2, 8, *size)
        pooled = pool_to_grid(features).double().numpy()
        query, key_value = project(layer.query, features.double().numpy()), project(layer.key_value, pooled)
        expected = np.empty((2, 8, int(np.prod(size))))
        for case in range(2):
            for head in (slice(0, 4), slice(4, 8)):
                q, k, v = (part[case].reshape(8, -1)[head] for part in (query, key_value[:, :8], key_value[:, 8:]))
                weights = np.exp(q.T @ k / np.sqrt(4))
                expected[case, head] = v @ (weights / weights.sum(1, keepdims=True)).T
        np.testing.assert_allclose(layer(features).detach().flatten(2).numpy(), expected, atol=1e-5)

    @pytest.mark.parametrize("size", [(9, 20), (5, 6, 7)])
    def test_gives_a_constant_for_a_constant(self, size: tuple[int, ...]) -> None:
        constant = torch.randn(1, 8, *[1] * len(size)).expand(1, 8, *size)
        attended = attention(len(size))(constant).flatten(2)
        torch.testing.assert_close(attended, attended[..., :1].expand_as(attended), atol=1e-5, rtol=0)

    def test_costs_in_proportion_to_the_number_of_voxels(self) -> None:
        def flops(side: int) -> int:
            with FlopCounterMode(display=False) as counter:
                attention(2)(torch.rand(1, 8, side, side))
            return counter.get_total_flops()

        # Four times the voxels; the keys and values cost the same at every size.
        assert flops(64) - flops(32) == 4 * (flops(32) - flops(16))

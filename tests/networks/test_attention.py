"""Attention over the grid: plain softmax, Eq. 8 written out, and what permuting and choosing modalities does to it."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fuse4seg.networks.attention import CrossAttention, GridSelfAttention, from_tokens, pool_to_grid, to_tokens


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


CHANNELS = 8
SIZES = [(6, 5), (16, 24), (3, 4, 2), (8, 4, 8)]


def cross_attention(axes: int, *, reference: int = 0, heads: int = 4) -> CrossAttention:
    torch.manual_seed(0)
    return CrossAttention(nn.Conv2d if axes == 2 else nn.Conv3d, CHANNELS, reference=reference, heads=heads).double()


def features(modalities: int, size: tuple[int, ...], *, batch: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return 2 * torch.randn(batch, modalities, CHANNELS, *size, dtype=torch.float64, generator=generator)


def by_hand(layer: CrossAttention, low: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Eq. 8 for one case (N, C, *S), head by head: context (C, voxels) and mean probabilities (N - 1, places)."""
    others = [index for index in range(len(low)) if index != layer.reference]
    query = project(layer.query, low[None, layer.reference].flatten(2).numpy())[0]
    pooled = [pool_to_grid(low[None, index]).flatten(2).numpy() for index in others]
    key_value = np.concatenate([project(layer.key_value, tokens)[0] for tokens in pooled], axis=1)
    key, value = key_value[:CHANNELS], key_value[CHANNELS:]
    width = CHANNELS // layer.heads
    context, probabilities = np.empty_like(query), []
    for head in range(layer.heads):
        rows = slice(head * width, (head + 1) * width)
        weights = np.exp(query[rows].T @ key[rows] / np.sqrt(width))
        weights /= weights.sum(axis=1, keepdims=True)
        context[rows] = value[rows] @ weights.T
        probabilities.append(weights.mean(axis=0))
    return context, np.mean(probabilities, axis=0).reshape(len(others), -1)


class TestCrossAttention:
    @pytest.mark.parametrize("size", SIZES)
    @pytest.mark.parametrize("modalities", [2, 3, 4])
    def test_equals_eq_8_written_out(self, modalities: int, size: tuple[int, ...]) -> None:
        layer, low = cross_attention(len(size), reference=1), features(modalities, size)
        with torch.no_grad():
            context, maps = layer(low, want_maps=True)
        for case in range(2):
            expected_context, expected_maps = by_hand(layer, low[case])
            np.testing.assert_allclose(context[case].flatten(1).numpy(), expected_context, atol=1e-10)
            np.testing.assert_allclose(maps[case].flatten(1).numpy(), expected_maps, atol=1e-10)

    @pytest.mark.parametrize("size", SIZES)
    @pytest.mark.parametrize("modalities", [2, 3, 4])
    def test_maps_are_probabilities_over_modalities_and_places(self, modalities: int, size: tuple[int, ...]) -> None:
        _, maps = cross_attention(len(size)).float()(features(modalities, size).float(), want_maps=True)
        grid = tuple(min(extent, 8 if len(size) == 2 else 4) for extent in size)
        assert maps.shape == (2, modalities - 1, *grid)
        assert maps.min() >= 0
        torch.testing.assert_close(maps.flatten(1).sum(dim=1), torch.ones(2), atol=1e-5, rtol=0)

    @pytest.mark.parametrize("order", list(permutations([1, 2, 3])))
    def test_permuting_the_other_modalities_permutes_the_maps_alone(self, order: tuple[int, ...]) -> None:
        layer, low = cross_attention(2).float(), features(4, (16, 16)).float()
        context, maps = layer(low, want_maps=True)
        permuted_context, permuted_maps = layer(low[:, [0, *order]], want_maps=True)
        torch.testing.assert_close(permuted_context, context, atol=1e-5, rtol=0)
        torch.testing.assert_close(permuted_maps, maps[:, [index - 1 for index in order]], atol=1e-5, rtol=0)

    @pytest.mark.parametrize("reference", [0, 1, 2])
    def test_the_reference_asks_wherever_it_stands(self, reference: int) -> None:
        low = features(3, (6, 6))
        others = [index for index in range(3) if index != reference]
        first = cross_attention(2)(low[:, [reference, *others]], want_maps=True)
        inside = cross_attention(2, reference=reference)(low, want_maps=True)
        torch.testing.assert_close(inside.context, first.context)
        torch.testing.assert_close(inside.maps, first.maps)

    def test_context_takes_its_values_from_the_others_alone(self) -> None:
        # Values that do not depend on the place can only come through unchanged, whatever the reference asks.
        layer, low = cross_attention(2), features(2, (6, 6))
        low[:, 1] = low[:, 1, :, :1, :1]
        value = nn.functional.conv2d(low[:, 1], layer.key_value.weight[CHANNELS:], layer.key_value.bias[CHANNELS:])
        torch.testing.assert_close(layer(low).context, value)

    def test_maps_follow_a_key_that_answers_the_query(self) -> None:
        layer, low = cross_attention(2, heads=1), torch.zeros(1, 3, CHANNELS, 8, 8, dtype=torch.float64)
        for convolution in (layer.query, layer.key_value):
            nn.init.zeros_(convolution.bias)
            nn.init.zeros_(convolution.weight)
            nn.init.dirac_(convolution.weight[:CHANNELS])
        low[:, 0, 0], low[:, 2, 0, 3, 5] = 10, 10
        maps = layer(low, want_maps=True).maps
        assert maps[0, 1, 3, 5] > 0.99

    @pytest.mark.parametrize("modalities", [2, 4])
    def test_costs_in_proportion_to_the_number_of_voxels(self, modalities: int) -> None:
        def flops(side: int) -> int:
            with FlopCounterMode(display=False) as counter:
                cross_attention(2)(features(modalities, (side, side)))
            return counter.get_total_flops()

        # Four times the voxels; the keys and values cost the same at every size.
        assert flops(64) - flops(32) == 4 * (flops(32) - flops(16))

    def test_gives_no_maps_unless_asked(self) -> None:
        low = features(2, (6, 6))
        without, asked = cross_attention(2)(low), cross_attention(2)(low, want_maps=True)
        assert without.maps is None
        torch.testing.assert_close(without.context, asked.context)


class TestAbsentModalities:
    @pytest.mark.parametrize("size", [(6, 5), (16, 24), (3, 4, 2)])
    @pytest.mark.parametrize("absent", [0, 2, 3])
    def test_neither_answer_nor_are_looked_at(self, absent: int, size: tuple[int, ...]) -> None:
        """Eq. 8 over the three that are there."""
        layer, low = cross_attention(len(size), reference=1), features(4, size)
        there = [index for index in range(4) if index != absent]
        present = torch.tensor([[index != absent for index in range(4)]] * 2)
        with torch.no_grad():
            context, maps = layer(low, present=present, want_maps=True)
            layer.reference = there.index(1)
            expected = layer(low[:, there], want_maps=True)
        torch.testing.assert_close(context, expected.context)
        answering = [place for place, index in enumerate([0, 2, 3]) if index != absent]
        torch.testing.assert_close(maps[:, answering], expected.maps)
        assert (maps[:, [0, 2, 3].index(absent)] == 0).all()

    def test_let_the_mean_ask_where_the_reference_is_one(self) -> None:
        layer, low = cross_attention(2), features(3, (6, 6))
        asked_by_mean = layer(torch.cat([low[:, 1:].mean(dim=1, keepdim=True), low[:, 1:]], dim=1), want_maps=True)
        low[:, 0] = torch.nan
        found = layer(low, present=torch.tensor([[False, True, True]] * 2), want_maps=True)
        torch.testing.assert_close(found.context, asked_by_mean.context)
        torch.testing.assert_close(found.maps, asked_by_mean.maps)

    def test_leave_a_reference_alone_with_nothing(self) -> None:
        found = cross_attention(2)(features(3, (6, 6)), present=torch.tensor([[True, False, False], [True, True, True]]),
                                   want_maps=True)
        assert (found.context[0] == 0).all()
        assert (found.maps[0] == 0).all()
        torch.testing.assert_close(found.maps[1].sum(), torch.tensor(1.0, dtype=torch.float64))

    @pytest.mark.parametrize("size", [(6, 5), (3, 4, 2)])
    @pytest.mark.parametrize("row", [row for row in product([False, True], repeat=3) if any(row)])
    def test_leave_gradients_finite(self, row: tuple[bool, ...], size: tuple[int, ...]) -> None:
        layer, low = cross_attention(len(size)), features(3, size, batch=1).requires_grad_()
        context, maps = layer(low, present=torch.tensor([row]), want_maps=True)
        (context.square().sum() + maps.square().sum()).backward()
        assert all(bool(torch.isfinite(parameter.grad).all()) for parameter in layer.parameters())
        absent = [index for index, there in enumerate(row) if not there]
        assert torch.isfinite(low.grad).all()
        assert (low.grad[:, absent] == 0).all()

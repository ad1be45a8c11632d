"""The dual-stream encoder: blocks that can be undone, blocks that look far and near, and weights that modalities share."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fuse4seg.networks.convolution import space_to_depth
from fuse4seg.networks.encoder import AffineCoupling, DualStreamEncoder, LiteTransformerBlock


def coupling(axes: int, channels: int, *, seed: int = 0) -> AffineCoupling:
    torch.manual_seed(seed)
    return AffineCoupling(nn.Conv2d if axes == 2 else nn.Conv3d, channels)


def undone(block: AffineCoupling, features: torch.Tensor) -> torch.Tensor:
    """The input that a block maps to ``features``."""
    rest = features.shape[1] - block.split
    moved, a = features[:, :rest], features[:, rest:]
    rho, eta = block.scale_and_shift(a).chunk(2, dim=1)
    b = (moved - eta) * torch.exp(-torch.tanh(rho))
    return torch.cat([a - block.shift(b), b], dim=1)


class TestAffineCoupling:
    @given(st.sampled_from([2, 3]), st.integers(2, 7), st.integers(0, 9))
    @settings(deadline=None, max_examples=30)
    def test_can_be_undone(self, axes: int, channels: int, seed: int) -> None:
        block = coupling(axes, channels, seed=seed)
        features = torch.randn(2, channels, *[4] * axes)
        with torch.no_grad():
            torch.testing.assert_close(undone(block, block(features)), features, atol=1e-5, rtol=0)
            torch.testing.assert_close(block(undone(block, features)), features, atol=1e-5, rtol=0)

    def test_two_with_strong_weights_are_undone_in_reverse_order(self) -> None:
        first, second = coupling(2, 6, seed=1), coupling(2, 6, seed=2)
        for module in [*first.modules(), *second.modules()]:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=0.01)
        features = torch.randn(1, 6, 8, 8)
        with torch.no_grad():
            restored = undone(first, undone(second, second(first(features))))
        torch.testing.assert_close(restored, features, atol=1e-4, rtol=0)

    def test_follows_its_formula(self) -> None:
        block, features = coupling(2, 5), torch.randn(1, 5, 4, 4)
        a, b = features[:, :2], features[:, 2:]
        moved = a + block.shift(b)
        rho, eta = block.scale_and_shift(moved)[:, :3], block.scale_and_shift(moved)[:, 3:]
        expected = torch.cat([b * torch.exp(torch.tanh(rho)) + eta, moved], dim=1)
        torch.testing.assert_close(block(features), expected)

    @pytest.mark.parametrize("axes", [2, 3])
    def test_changes_its_input(self, axes: int) -> None:
        features = torch.randn(1, 4, *[6] * axes)
        assert (coupling(axes, 4)(features) - features).abs().mean() > 0.1

    @pytest.mark.parametrize("channels", [2, 4, 5])
    def test_sends_a_gradient_to_every_parameter(self, channels: int) -> None:
        block = coupling(2, channels)
        block(torch.randn(2, channels, 6, 6)).pow(2).sum().backward()
        assert all(parameter.grad.abs().max() > 0 for parameter in block.parameters())


def block(axes: int = 2, channels: int = 8, *, heads: int = 2) -> LiteTransformerBlock:
    torch.manual_seed(0)
    return LiteTransformerBlock(nn.Conv2d if axes == 2 else nn.Conv3d, channels, heads=heads)


def reach_of(layer: nn.Module, side: int = 21) -> torch.Tensor:
    """Where in a square image a change of its centre shows."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 8, side, side, generator=generator, dtype=torch.float64)
    changed = image.clone()
    changed[0, :, side // 2, side // 2] = torch.randn(8, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        return (layer.double()(changed) - layer(image)).abs().amax(dim=1)[0] > 1e-12


class TestLiteTransformerBlock:
    @pytest.mark.parametrize("size", [(7, 9), (3, 4, 5)])
    @pytest.mark.parametrize(("channels", "heads"), [(8, 2), (4, 1), (12, 3)])
    def test_keeps_the_shape(self, size: tuple[int, ...], channels: int, heads: int) -> None:
        features = torch.randn(2, channels, *size)
        assert block(len(size), channels, heads=heads)(features).shape == features.shape

    def test_sees_the_whole_image_at_once(self) -> None:
        assert reach_of(block()).all()

    def test_sees_three_voxels_wide_without_its_attention(self) -> None:
        near = block()
        nn.init.zeros_(near.mix.weight[:, :4])
        reach = reach_of(near)
        assert reach[9:12, 9:12].all()
        assert reach.sum() == 9

    def test_passes_its_input_on_when_both_branches_end_in_zero(self) -> None:
        skipping = block()
        for last in (skipping.mix, skipping.feed_forward[-1]):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        features = torch.randn(1, 8, 6, 6)
        assert torch.equal(skipping(features), features)

    def test_does_not_mind_how_strong_its_input_is(self) -> None:
        # What the branches add comes from normalised features.
        layer, features = block(), torch.randn(1, 8, 6, 6)
        nn.init.zeros_(layer.feed_forward[-1].weight)
        added, added_to_strong = (layer(strength * features) - strength * features for strength in (1, 50))
        torch.testing.assert_close(added, added_to_strong, atol=1e-3, rtol=0)

    @pytest.mark.parametrize("axes", [2, 3])
    def test_sends_a_gradient_to_every_weight(self, axes: int) -> None:
        layer = block(axes)
        layer(torch.randn(2, 8, *[5] * axes)).pow(2).sum().backward()
        assert all(parameter.grad.abs().max() > 0 for parameter in layer.parameters())


def encoder(axes: int = 2, modalities: int = 2, **changed: Any) -> DualStreamEncoder:
    torch.manual_seed(0)
    arguments = {"detail_stride": [2] * axes, "base_strides": [[2] * axes], "detail_features": 4, "base_features": 8,
                 "couplings": 2, "transformers": 1, **changed}
    return DualStreamEncoder(nn.Conv2d if axes == 2 else nn.Conv3d, modalities, **arguments)


class TestDualStreamEncoder:
    @pytest.mark.parametrize("modalities", [1, 2, 4])
    @pytest.mark.parametrize(("strides", "size", "low_size", "high_size"), [
        ([[2, 2], [2, 2], [2, 2]], (16, 24), (2, 3), (8, 12)),
        ([[2, 2]], (16, 24), (8, 12), (8, 12)),
        ([[1, 1]], (5, 7), (5, 7), (5, 7)),
        ([[2, 2, 2], [2, 2, 2]], (8, 8, 12), (2, 2, 3), (4, 4, 6)),
        ([[1, 2, 2], [2, 2, 2]], (6, 8, 12), (3, 2, 3), (6, 4, 6)),
        ([[1, 2, 2], [1, 2, 2], [2, 1, 3]], (4, 8, 12), (2, 2, 1), (4, 4, 6)),
    ])
    def test_divides_each_axis_by_its_strides(self, modalities: int, strides: list[list[int]], size: tuple[int, ...],
                                              low_size: tuple[int, ...], high_size: tuple[int, ...]) -> None:
        network = encoder(len(size), modalities, detail_stride=strides[0], base_strides=strides[1:])
        low, high = network(torch.rand(2, modalities, *size))
        assert low.shape == (2, modalities, 8, *low_size)
        assert high.shape == (2, modalities, 4, *high_size)

    def test_shares_its_weights_between_modalities(self) -> None:
        network, sources = encoder(modalities=3), torch.rand(2, 3, 8, 8)
        order = [2, 0, 1]
        for features, permuted in zip(network(sources), network(sources[:, order]), strict=True):
            torch.testing.assert_close(permuted, features[:, order])

    def test_can_tell_modalities_apart_by_their_offsets(self) -> None:
        network = encoder()
        nn.init.normal_(network.modality)
        image = torch.rand(1, 1, 8, 8)
        low, high = network(image.expand(1, 2, 8, 8))
        assert (low[:, 0] - low[:, 1]).abs().mean() > 1e-2
        assert (high[:, 0] - high[:, 1]).abs().mean() > 1e-2

    def test_gives_every_modality_of_every_case_its_own_offset(self) -> None:
        network, sources = encoder(), torch.rand(3, 2, 8, 8)
        nn.init.normal_(network.modality)
        low, _ = network(sources)
        alone, _ = network(sources[2:])
        torch.testing.assert_close(low[2:], alone)

    def test_high_stream_can_be_undone_up_to_its_norm(self) -> None:
        network, sources = encoder(), torch.rand(2, 2, 8, 8)
        with torch.no_grad():
            stem = network.activation(network.stem(space_to_depth(sources.view(4, 1, 8, 8), (2, 2))))
            *couplings, norm = network.high
            restored = network.high[:-1](stem)
            torch.testing.assert_close(norm(restored), network(sources)[1].flatten(0, 1))
            for block in reversed(couplings):
                restored = undone(block, restored)
        torch.testing.assert_close(restored, stem, atol=1e-5, rtol=0)

    def test_both_streams_end_normalised(self) -> None:
        for features in encoder()(100 * torch.rand(2, 2, 8, 8)):
            torch.testing.assert_close(features.mean(dim=2), torch.zeros_like(features[:, :, 0]), atol=1e-5, rtol=0)
            torch.testing.assert_close(features.var(dim=2, correction=0), torch.ones_like(features[:, :, 0]), atol=1e-2, rtol=0)

    def test_counts_blocks_as_asked(self) -> None:
        none, one, three = (sum(p.numel() for p in encoder(couplings=n).high.parameters()) for n in (0, 1, 3))
        assert three - none == 3 * (one - none) > 0

    @pytest.mark.parametrize("axes", [2, 3])
    def test_sends_a_gradient_to_every_parameter(self, axes: int) -> None:
        network = encoder(axes)
        for features in network(torch.rand(2, 2, *[8] * axes)):
            (features * torch.randn_like(features)).sum().backward(retain_graph=True)
        assert all(parameter.grad.abs().max() > 0 for parameter in network.parameters())

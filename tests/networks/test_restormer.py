"""Restormer's block: against its formulas in NumPy, and what it sees."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import erf, softmax
from torch import nn

from fuse4seg.networks.restormer import ChannelAttention, GatedFeedForward, RestormerBlock


def parameters(layer: nn.Module) -> int:
    return sum(weights.numel() for weights in layer.parameters())


class TestChannelAttention:
    def test_follows_its_formula(self) -> None:
        layer, features = ChannelAttention(nn.Conv2d, 4, heads=2, groups=12), torch.randn(1, 4, 5, 6)
        with torch.no_grad():
            layer.temperature.copy_(torch.tensor([0.5, 3.0]).view(2, 1, 1))
            query, key, value = layer.asked(features)[0].flatten(1).split(4)
            attended = []
            for head, temperature in enumerate((0.5, 3.0)):
                ours, theirs, given = (part[2 * head:2 * head + 2].double().numpy() for part in (query, key, value))
                ours, theirs = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (ours, theirs))
                attended.append(softmax(ours @ theirs.T * temperature, axis=1) @ given)
            expected = layer.mix.weight[:, :, 0, 0].double().numpy() @ np.concatenate(attended)
            np.testing.assert_allclose(layer(features)[0].flatten(1), expected, atol=1e-6)

    def test_sees_the_whole_image_by_any_groups(self) -> None:
        features = torch.randn(1, 4, 9, 9)
        changed = features.clone()
        changed[..., 0, 0] += 1
        for groups in (1, 12):
            layer = ChannelAttention(nn.Conv2d, 4, heads=2, groups=groups)
            assert (layer(changed) - layer(features)).abs().amax(dim=1)[0, -1, -1] > 1e-5


class TestGatedFeedForward:
    def test_follows_its_formula(self) -> None:
        layer, features = GatedFeedForward(nn.Conv2d, 4, hidden=6, groups=12), torch.randn(2, 4, 5, 6)
        with torch.no_grad():
            gate, gated = (part.double().numpy() for part in layer.widen(features).split(6, dim=1))
            held = gate * (1 + erf(gate / np.sqrt(2))) / 2 * gated
            expected = np.einsum("oc,bcyx->boyx", layer.mix.weight[:, :, 0, 0].double().numpy(), held)
            np.testing.assert_allclose(layer(features), expected, atol=1e-6)


class TestRestormerBlock:
    @pytest.mark.parametrize("size", [(7, 9), (1, 1), (3, 4, 5)])
    def test_keeps_the_shape(self, size: tuple[int, ...]) -> None:
        block = RestormerBlock(nn.Conv2d if len(size) == 2 else nn.Conv3d, 8, heads=2, hidden=6)
        features = torch.randn(2, 8, *size)
        assert block(features).shape == features.shape

    def test_counts_as_restormer_s_where_no_groups_are_given(self) -> None:
        # 64 channels, 8 heads, expansion by 2: norms, temperatures, and convolutions without bias.
        attention = 8 + 64 * 192 + 192 * 9 + 64 * 64
        feed_forward = 64 * 256 + 256 * 9 + 128 * 64
        assert parameters(RestormerBlock(nn.Conv2d, 64, heads=8, hidden=128)) == 2 * 2 * 64 + attention + feed_forward

    def test_passes_its_input_on_when_both_layers_end_in_zero(self) -> None:
        block = RestormerBlock(nn.Conv2d, 4, heads=2, hidden=4)
        for layer in (block.attention, block.feed_forward):
            nn.init.zeros_(layer[-1].mix.weight)
        features = torch.randn(1, 4, 6, 6)
        assert torch.equal(block(features), features)

    @pytest.mark.parametrize("axes", [2, 3])
    def test_sends_a_gradient_to_every_weight(self, axes: int) -> None:
        block = RestormerBlock(nn.Conv2d if axes == 2 else nn.Conv3d, 4, heads=2, hidden=4, attention_groups=1, gate_groups=4)
        block(torch.randn(2, 4, *[5] * axes)).pow(2).sum().backward()
        assert all(weights.grad.abs().max() > 0 for weights in block.parameters())

"""The Lite-Transformer block: one half of the channels looks far, the other near."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fuse4seg.networks.lite_transformer import LiteTransformerBlock


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

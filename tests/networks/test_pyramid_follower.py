"""The pyramid transformer, its decoders, and what becomes of their heads."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fuse4seg.networks.pyramid_follower import STRIDE, WIDTHS, PyramidBlock, PyramidFollower, PyramidTransformer, ReducedAttention

Images = Callable[..., torch.Tensor]


class Gate(nn.Module):
    """Notes what it is given, and lets all pass."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, ...]] = []

    def forward(self, features: Tensor, skip: Tensor) -> Tensor:
        self.seen = [tuple(features.shape), tuple(skip.shape)]
        return skip


class Plain(PyramidFollower):
    """The least that a decoder can do."""

    def up(self, coarse: int, fine: int) -> nn.Module:
        return nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(coarse, fine, 1))

    def gate(self, channels: int) -> nn.Module:
        return Gate()

    def refinement(self, channels: int, features: int) -> nn.Module:
        return nn.Identity()

    def joined(self, channels: int) -> int:
        return channels

    def join(self, features: Tensor, gated: Tensor) -> Tensor:
        return features + gated


class TestPyramidFollower:
    def test_predicts_the_sum_of_all_heads(self, random_images: Images) -> None:
        network = Plain(1, 2)
        for exponent, head in enumerate(network.heads):
            nn.init.zeros_(head.weight)
            with torch.no_grad():
                head.bias.copy_(torch.tensor([10.0 ** exponent, -1.0]))
        logits = network(random_images(1, 1, 40, 64))
        torch.testing.assert_close(logits[:, 0], torch.full((1, 40, 64), 1111.0))
        torch.testing.assert_close(logits[:, 1], torch.full((1, 40, 64), -4.0))

    def test_brings_each_skip_connection_to_its_level(self) -> None:
        with torch.device("meta"):
            network = Plain(1, 2)
            network(torch.empty(2, 1, 64, 96))
        assert [gate.seen for gate in network.gates] == [
            [(2, width, 64 // step, 96 // step)] * 2 for width, step in zip(WIDTHS[-2::-1], (16, 8, 4), strict=True)]

    def test_reaches_the_finest_head_only_through_all_levels(self, random_images: Images) -> None:
        network, images = Plain(1, 2), random_images(1, 1, 32, 32)
        for head in list(network.heads)[:-1]:
            nn.init.zeros_(head.weight)
        network(images).square().mean().backward()
        assert all(up[1].weight.grad.abs().max() > 0 for up in network.ups)
        assert all((head.weight.grad.abs().max() > 0) for head in network.heads)


def stock_attention(attention: ReducedAttention) -> nn.MultiheadAttention:
    """PyTorch's, with the same weights."""
    channels = attention.mix.in_channels
    stock = nn.MultiheadAttention(channels, attention.heads, batch_first=True)
    same = {"in_proj_weight": torch.cat([attention.query.weight, attention.key_value.weight]).flatten(1),
            "in_proj_bias": torch.cat([attention.query.bias, attention.key_value.bias]),
            "out_proj.weight": attention.mix.weight.flatten(1), "out_proj.bias": attention.mix.bias}
    stock.load_state_dict(same)
    return stock


class TestReducedAttention:
    @pytest.mark.parametrize("reduction", [1, 2])
    def test_attends_as_pytorchs_own_layer_to_the_reduced_map(self, reduction: int, random_images: Images) -> None:
        attention, features = ReducedAttention(16, heads=2, reduction=reduction), random_images(2, 16, 4, 6)
        tokens, keys = features.flatten(2).mT, attention.reduce(features).flatten(2).mT
        assert keys.shape[1] == 24 // reduction ** 2
        expected, _ = stock_attention(attention)(tokens, keys, keys)
        torch.testing.assert_close(attention(features).flatten(2).mT, expected, rtol=1e-4, atol=1e-5)


class TestPyramidBlock:
    def test_tells_places_apart_by_the_padding_alone(self) -> None:
        features = torch.ones(1, 16, 6, 6) * torch.randn(1, 16, 1, 1)
        found = PyramidBlock(16, heads=2, reduction=2, widening=2)(features)
        inside = found[..., 1:-1, 1:-1]
        torch.testing.assert_close(inside, inside[..., :1, :1].expand_as(inside))
        assert float((found[..., 0, :] - found[..., 1, :]).detach().abs().max()) > 1e-3


class TestPyramidTransformer:
    def test_has_the_papers_parameters(self) -> None:
        with torch.device("meta"):
            network, classifier = PyramidTransformer(3), nn.Linear(WIDTHS[-1], 1000)
        parameters = sum(part.numel() for module in (network, classifier) for part in module.parameters())
        assert parameters / 1e6 == pytest.approx(25.4, abs=0.05)

    @pytest.mark.parametrize("size", [(64, 64), (224, 224), (512, 384)])
    def test_gives_four_resolutions(self, size: tuple[int, int]) -> None:
        with torch.device("meta"):
            features = PyramidTransformer(2)(torch.empty(3, 2, *size))
        coarseness = [STRIDE // 8, STRIDE // 4, STRIDE // 2, STRIDE]
        assert [tuple(part.shape) for part in features] == [
            (3, width, size[0] // step, size[1] // step) for width, step in zip(WIDTHS, coarseness, strict=True)]

    def test_sees_the_whole_image_from_the_first_stage_on(self, random_images: Images) -> None:
        network, images = PyramidTransformer(1), random_images(1, 1, 64, 96)
        other = images.clone()
        other[..., :4, :4] = 1 - other[..., :4, :4]
        with torch.no_grad():
            changes = [(changed - same).abs() for changed, same in zip(network(other), network(images), strict=True)]
        assert all(float(change[..., -1, -1].max()) > 0 for change in changes)

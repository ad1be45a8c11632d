"""Decoders on the pyramid transformer: what they are handed, and what becomes of their heads."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fuse4seg.networks.pvt import WIDTHS
from fuse4seg.networks.pyramid_follower import PyramidFollower

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

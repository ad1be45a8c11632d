"""The dense generator: its parameters by hand, what it sees, and its range."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from fuse4seg.networks.dense import DenseGenerator

CONVOLUTIONS = {2: nn.Conv2d, 3: nn.Conv3d}


def generator(axes: int, **options: object) -> DenseGenerator:
    return DenseGenerator(CONVOLUTIONS[axes], sources=2, growth=3, layers=2, narrowing=(5, 4), activation=nn.ReLU,
                          **options)


def weights(channels: int, features: int, axes: int, *, batch_norm: bool) -> int:
    return 3**axes * channels * features + features + 2 * features * batch_norm


class TestDenseGenerator:
    @pytest.mark.parametrize("axes", [2, 3])
    @pytest.mark.parametrize("batch_norm", [False, True])
    def test_has_the_parameters_of_its_layers(self, axes: int, batch_norm: bool) -> None:
        layers = [(2, 3), (3, 3), (6, 3), (9, 5), (5, 4)]
        expected = sum(weights(*layer, axes, batch_norm=batch_norm) for layer in layers)
        expected += weights(4, 1, axes, batch_norm=False)
        network = generator(axes, batch_norm=batch_norm)
        assert sum(parameter.numel() for parameter in network.parameters()) == expected

    @pytest.mark.parametrize("size", [(2, 7), (16, 9), (3, 5, 4)])
    def test_gives_an_image_of_the_same_size_in_range(self, size: tuple[int, ...]) -> None:
        network = generator(len(size))
        nn.init.normal_(network.last.weight, std=5)
        image = network(torch.rand(3, 2, *size))
        assert image.shape == (3, 1, *size)
        assert 0 <= image.min() < image.max() <= 1

    def test_passes_every_feature_on_to_every_later_layer(self) -> None:
        """Where the block says nothing, the first layer's features still reach what narrows down."""
        network = generator(2)
        for silent in network.block:
            nn.init.zeros_(silent[0].weight)
            nn.init.zeros_(silent[0].bias)
        images = torch.rand(1, 2, 8, 8)
        first = network.first(images)
        nothing = torch.zeros_like(first)
        expected = network.last(network.narrow(torch.cat([first, nothing, nothing], dim=1))).tanh() / 2 + 0.5
        torch.testing.assert_close(network(images), expected)
        assert [layer[0].in_channels for layer in network.block] == [3, 6]

    def test_sees_a_patch_as_wide_as_its_layers_reach(self) -> None:
        network = DenseGenerator(nn.Conv2d, sources=2, growth=3, layers=2, narrowing=(5, 4), activation=nn.Tanh)
        images = torch.rand(1, 2, 31, 31, requires_grad=True)
        network(images)[0, 0, 15, 15].backward()
        seen = images.grad[0].abs().sum(dim=(0, 1)).nonzero().flatten()
        assert (seen.min().item(), seen.max().item()) == (15 - 6, 15 + 6)

    def test_keeps_grey_levels_apart_under_autocast(self, random_images: Callable[..., torch.Tensor]) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert generator(2)(random_images(1, 2, 8, 8)).dtype == torch.float32

    def test_runs_on_the_meta_device(self) -> None:
        with torch.device("meta"):
            assert generator(3, batch_norm=True)(torch.rand(2, 2, 4, 6, 8)).shape == (2, 1, 4, 6, 8)

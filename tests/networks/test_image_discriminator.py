"""The image discriminator: one value for an image of any size, seen by itself."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fuse4seg.networks.image_discriminator import ImageDiscriminator

CONVOLUTIONS = {2: nn.Conv2d, 3: nn.Conv3d}


class TestImageDiscriminator:
    @pytest.mark.parametrize("size", [(1, 1), (5, 7), (64, 48), (3, 9, 10)])
    @pytest.mark.parametrize("batch_norm", [False, True])
    def test_gives_one_value_per_image_of_any_size(self, size: tuple[int, ...], batch_norm: bool) -> None:
        network = ImageDiscriminator(CONVOLUTIONS[len(size)], activation=nn.ReLU, batch_norm=batch_norm)
        assert network(torch.rand(2, 3, *size)).shape == (2, 3)

    def test_sees_each_image_by_itself(self) -> None:
        network = ImageDiscriminator(nn.Conv2d, activation=nn.ReLU, batch_norm=True).eval()
        images = torch.rand(2, 3, 16, 16)
        torch.testing.assert_close(network(images)[1, 2], network(images[1:, 2:])[0, 0])

    def test_is_the_mean_over_places(self) -> None:
        network, images = ImageDiscriminator(nn.Conv2d, activation=nn.Tanh), torch.rand(1, 1, 24, 40)
        places = network.layers(images)
        assert places.shape == (1, 1, 3, 5)
        torch.testing.assert_close(network(images)[0, 0], places.mean())

    def test_has_the_published_widths(self) -> None:
        network = ImageDiscriminator(nn.Conv2d, activation=nn.ReLU)
        convolutions = [layer for layer in network.layers if isinstance(layer, nn.Conv2d)]
        assert [(layer.in_channels, layer.out_channels, layer.stride) for layer in convolutions] == [
            (1, 32, (2, 2)), (32, 64, (2, 2)), (64, 128, (2, 2)), (128, 1, (1, 1))]

    def test_learns_to_tell_bright_images_from_dark_ones(self) -> None:
        torch.manual_seed(0)
        network = ImageDiscriminator(nn.Conv2d, activation=nn.ReLU)
        optimiser = torch.optim.Adam(network.parameters(), lr=2e-3)
        for _ in range(30):
            bright, dark = (network(torch.rand(4, 1, 16, 16) / 2 + offset) for offset in (0.5, 0))
            optimiser.zero_grad()
            nn.functional.softplus(torch.cat([-bright, dark])).mean().backward()
            optimiser.step()
        assert network(torch.full((1, 1, 16, 16), 0.8)) > 0 > network(torch.full((1, 1, 16, 16), 0.2))

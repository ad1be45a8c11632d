"""Discriminators: sizes they take, what they cost, and that they learn to tell images apart."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fuse4seg.losses.adversarial import discriminator_loss
from fuse4seg.networks.discriminator import Discriminator, ImageDiscriminator

CONVOLUTIONS = {2: nn.Conv2d, 3: nn.Conv3d}


def flops(network: nn.Module, images: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        network(images)
    return counter.get_total_flops()


class TestDiscriminator:
    @pytest.mark.parametrize("size", [(16, 16), (17, 31), (64, 40), (16, 16, 16), (8, 19, 33)])
    def test_gives_one_logit_per_eight_voxels_of_any_size(self, size: tuple[int, ...]) -> None:
        logits = Discriminator(len(size))(torch.rand(2, 1, *size))
        assert logits.shape == (2, 1, *(length // 8 for length in size))

    @pytest.mark.parametrize(("dimensions", "convolution"), [(2, nn.Conv2d), (3, nn.Conv3d)])
    def test_costs_less_than_a_fifth_of_a_u_nets_first_stage(self, dimensions: int,
                                                             convolution: type[nn.Module]) -> None:
        images = torch.rand(1, 1, *[32] * dimensions)
        first_stage = nn.Sequential(convolution(1, 32, 3, padding=1), convolution(32, 32, 3, padding=1))
        assert flops(Discriminator(dimensions), images) < flops(first_stage, images) / 5

    def test_sees_a_patch_of_38_voxels(self) -> None:
        images = torch.rand(1, 1, 96, 96, generator=torch.Generator().manual_seed(0)).requires_grad_()
        Discriminator(2)(images)[0, 0, 6, 6].backward()
        rows = images.grad[0, 0].abs().sum(1).nonzero().flatten()
        assert len(rows) == rows[-1] - rows[0] + 1 == 38

    def test_does_not_let_one_image_of_a_batch_change_another(self) -> None:
        network = Discriminator(2).eval()
        images = torch.rand(3, 1, 24, 24, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(network(images)[1:2], network(images[1:2]))

    def test_learns_to_tell_bright_images_from_dark_ones(self) -> None:
        torch.manual_seed(0)
        network = Discriminator(2)
        optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
        for _ in range(60):
            bright, dark = (torch.rand(4, 1, 16, 16) / 2 + offset for offset in (0.5, 0))
            loss = discriminator_loss([network(bright)], [network(dark)])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        bright, dark = network(torch.full((1, 1, 16, 16), 0.8)), network(torch.full((1, 1, 16, 16), 0.2))
        assert bright.min() > 0 > dark.max()

    def test_keeps_its_weights_through_plain_checkpoints(self) -> None:
        images = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
        trained, restored = Discriminator(2).eval(), Discriminator(2).eval()
        restored.load_state_dict(trained.state_dict())
        assert torch.equal(restored(images), trained(images))

    @pytest.mark.parametrize("dimensions", [1, 4])
    def test_refuses_other_dimensions(self, dimensions: int) -> None:
        with pytest.raises(ValueError, match=f"not {dimensions}"):
            Discriminator(dimensions)


@pytest.mark.parametrize("size", [(6, 16), (5, 12, 10)])
def test_thin_patches_are_padded_with_black(size: tuple[int, ...]) -> None:
    network, images = Discriminator(len(size)).eval(), torch.rand(1, 1, *size)
    padded = torch.zeros(1, 1, *(max(8, extent) for extent in size))
    padded[(..., *map(slice, size))] = images
    torch.testing.assert_close(network(images), network(padded))


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

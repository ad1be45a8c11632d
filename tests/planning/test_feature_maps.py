"""Feature map counts: by hand, against nnU-Net's own, and without a trace on the network."""

from __future__ import annotations

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from torch import Tensor, nn

from fuse4seg.networks.fusion import FusionNetwork
from fuse4seg.planning.feature_maps import count_feature_map_voxels


def plain_unet(conv_op: type[nn.Module], norm_op: type[nn.Module]) -> PlainConvUNet:
    return PlainConvUNet(input_channels=2, n_stages=3, features_per_stage=(4, 8, 16), conv_op=conv_op, kernel_sizes=3,
                         strides=(1, 2, 2), n_conv_per_stage=2, num_classes=3, n_conv_per_stage_decoder=2,
                         norm_op=norm_op, norm_op_kwargs={}, nonlin=nn.LeakyReLU)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(self.layer(inputs))


class TestCountFeatureMapVoxels:
    def test_adds_the_outputs_of_convolutions(self) -> None:
        network = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 2, 2, stride=2),
                                nn.ConvTranspose2d(2, 5, 2, stride=2))

        assert count_feature_map_voxels(network, (1, 8, 6)) == 3 * 48 + 2 * 12 + 5 * 48

    def test_counts_every_run_of_a_layer(self) -> None:
        assert count_feature_map_voxels(Twice(), (7, 4)) == 2 * 7 * 4

    @pytest.mark.parametrize(("conv_op", "norm_op", "shape"), [(nn.Conv2d, nn.InstanceNorm2d, (32, 24)),
                                                               (nn.Conv3d, nn.InstanceNorm3d, (16, 12, 8))])
    def test_equals_nnunets_own_count_for_its_unet(self, conv_op: type[nn.Module], norm_op: type[nn.Module],
                                                   shape: tuple[int, ...]) -> None:
        network = plain_unet(conv_op, norm_op)

        assert count_feature_map_voxels(network, (2, *shape)) == network.compute_conv_feature_map_size(shape)

    def test_of_the_fusion_network_grows_with_the_image(self) -> None:
        network = FusionNetwork(3, conv_op=nn.Conv2d, strides=[[1, 1], [2, 2], [2, 2], [2, 2]])

        small, large = (count_feature_map_voxels(network, (3, edge, edge)) for edge in (64, 128))

        assert small > 3 * 64 * 64
        # Attention works on a grid of a fixed size, so not all of it grows.
        assert 3.5 * small < large <= 4 * small

    def test_leaves_the_network_as_it_is(self) -> None:
        network = plain_unet(nn.Conv2d, nn.InstanceNorm2d)
        before = {name: value.clone() for name, value in network.state_dict().items()}

        count_feature_map_voxels(network, (2, 16, 16))

        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
        assert not any(layer._forward_hooks for layer in network.modules())

"""The gate as leader: what its image is made of, and a readable one in colour or grey from the start."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from fuse4seg.inference.fusion_rules import fuse_by_rule
from fuse4seg.leaders.gate import GateLeader

Images = Callable[..., torch.Tensor]
grey_and_colour = pytest.mark.parametrize("colours", [1, 3])


def fusion(modalities: int = 2, *, axes: int = 2, colours: int = 3, brighter: float = 0.0) -> GateLeader:
    torch.manual_seed(0)
    network = GateLeader(modalities, conv_op=nn.Conv2d if axes == 2 else nn.Conv3d, strides=[1, 2, 2], detail_features=4,
                         base_features=8, couplings=1, transformers=1, colours=colours, brighter=brighter)
    network.initialise()
    return network


class TestForward:
    @grey_and_colour
    def test_image_is_the_mixture_that_its_shares_say(self, colours: int, random_images: Images) -> None:
        network, sources = fusion(3, colours=colours), random_images(2, 3, 8, 8)
        fused = network(sources)
        mixed = (fused.own[:, :, :3] * sources.unsqueeze(1)).sum(dim=2)
        tint = (fused.image - mixed) / fused.own[:, :, 3]
        torch.testing.assert_close(fused.own.sum(dim=2), torch.ones(2, colours, 8, 8))
        assert tint.min() >= -1e-3
        assert tint.max() <= 1 + 1e-3

    @pytest.mark.parametrize("size", [(16, 24), (17, 13), (8, 8, 8)])
    def test_of_constant_sources_has_nothing_finer_than_its_features(self, size: tuple[int, ...]) -> None:
        """However the gate is trained: the lines on which shares change between features meet in these."""
        network = fusion(axes=len(size))
        nn.init.normal_(network.gate.source[-1].weight, std=3.0)
        nn.init.normal_(network.gate.tint.weight, std=3.0)
        network.encoder.modality.data.normal_()
        sources = torch.tensor([0.3, 0.8]).view(1, 2, *[1] * len(size)).expand(1, 2, *size)
        shares = network(sources).own
        leads = shares[:, :, 0].log() - shares[:, :, 1].log()
        # From the second voxel on, each pair lies between two features, a quarter and three quarters of the way.
        for axis in range(-len(size), 0):
            pairs = leads.narrow(axis, 1, (size[axis] - 2) // 2 * 2).unflatten(axis, (-1, 2))
            first, second = pairs.unbind(axis)
            steps, few = second - first, first.shape[axis]
            arriving, leaving = second + steps / 2, first - steps / 2
            torch.testing.assert_close(arriving.narrow(axis, 0, few - 1), leaving.narrow(axis, 1, few - 1), atol=1e-4, rtol=1e-4)
        assert leads.std() > 0.01

    @pytest.mark.parametrize("modalities", [2, 3, 4])
    @pytest.mark.parametrize("size", [(40, 32), (12, 16, 8)])
    def test_in_grey_is_near_the_mean_of_the_sources_before_training(self, modalities: int, size: tuple[int, ...],
                                                                     random_images: Images) -> None:
        sources = random_images(2, modalities, *size)
        mean, strongest = sources.mean(dim=1, keepdim=True), sources.amax(dim=1, keepdim=True)
        image = fusion(modalities, axes=len(size), colours=1, brighter=1.0)(sources).image
        assert (image - mean).abs().mean() < 0.07
        assert (image - mean).mean() > 0.01
        assert (image - strongest).abs().mean() < (mean - strongest).abs().mean()

    @pytest.mark.parametrize("modalities", [2, 3, 4])
    @pytest.mark.parametrize("size", [(40, 32), (12, 16, 8)])
    def test_in_colour_is_near_the_rule_s_before_training(self, modalities: int, size: tuple[int, ...],
                                                          random_images: Images) -> None:
        sources = random_images(1, modalities, *size)
        ruled = torch.from_numpy(fuse_by_rule(list(255 * sources[0].double().numpy()), "colour")) / 255
        image = fusion(modalities, axes=len(size))(sources).image[0].double()
        assert (image - ruled).abs().mean() < 0.05
        for channel, wanted in zip(image, ruled, strict=True):
            assert np.corrcoef(channel.detach().flatten(), wanted.flatten())[0, 1] > 0.97

    @grey_and_colour
    def test_gives_back_equal_sources_before_training(self, colours: int, random_images: Images) -> None:
        image = random_images(1, 1, 32, 32)
        assert (fusion(colours=colours)(image.expand(1, 2, 32, 32)).image - image).abs().mean() < 0.05

    def test_gives_one_modality_back_before_training(self, random_images: Images) -> None:
        source = random_images(2, 1, 13, 9)
        assert (fusion(1, colours=1)(source).image - source).abs().mean() < 0.05

    @pytest.mark.parametrize("colours", [2, 4])
    def test_refuses_an_image_of_other_than_1_or_3_channels(self, colours: int) -> None:
        with pytest.raises(ValueError, match=f"1 or 3 channels, not {colours}"):
            fusion(colours=colours)


class TestInitialise:
    def test_leaves_the_gate_its_own_design(self) -> None:
        gate = fusion(brighter=0.5).gate
        assert (gate.tint_share.bias == -2).all()
        assert gate.tint_share.weight.std() < 0.02
        assert gate.source[-1].weight.std() < 0.02
        assert gate.brighter.item() == 0.5

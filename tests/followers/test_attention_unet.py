"""Attention U-Net: its published size, and the decoder's second convolutions."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets.attentionunet import AttentionLayer
from torch import nn

from fuse4seg.followers.attention_unet import WIDTHS, GatedUNet


class TestGatedUNet:
    @pytest.mark.parametrize(("conv_op", "channels", "classes", "published"), [
        (nn.Conv3d, 1, 2, 6.40),  # the paper's table of Attention U-Net
        (nn.Conv2d, 3, 1, 34.88)])  # EMCAD's Table 1, of U-Net's widths
    def test_has_the_published_parameters(self, conv_op: type[nn.Module], channels: int, classes: int,
                                          published: float) -> None:
        with torch.device("meta"):
            network = GatedUNet(channels, classes, conv_op=conv_op)
        parameters = sum(part.numel() for part in network.parameters()) / 1e6
        assert parameters == pytest.approx(published, rel=0.05)
        if conv_op is nn.Conv2d:
            assert round(parameters, 2) == published

    def test_has_two_convolutions_behind_each_gate(self) -> None:
        with torch.device("meta"):
            network = GatedUNet(1, 2)
        layers = [module for module in network.modules() if isinstance(module, AttentionLayer)]
        convolutions = [[(part.in_channels, part.out_channels) for part in layer.merge.modules()
                         if isinstance(part, nn.Conv2d)] for layer in layers]
        assert convolutions == [[(2 * width, width), (width, width)] for width in WIDTHS[2][:-1]]

    def test_takes_nothing_of_a_skip_connection_whose_gate_is_closed(self) -> None:
        torch.manual_seed(0)
        network = GatedUNet(1, 2).eval()
        finest = next(module for module in network.modules() if isinstance(module, AttentionLayer))
        seen: list[torch.Tensor] = []
        finest.merge.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        nn.init.constant_(finest.attention.psi[1].bias, -200.0)
        network(torch.rand(1, 1, 32, 32))
        assert float(seen[0][:, :WIDTHS[2][0]].detach().abs().max()) < 1e-30
        assert float(seen[0][:, WIDTHS[2][0]:].detach().abs().max()) > 0

"""The CNN-transformer hybrid: what nnU-Net expects of a network, and a view of the whole image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from torch import nn

from fuse4seg.networks.cnn_transformer import CNNTransformer
from fuse4seg.networks.transformer_block import TransformerBlock

Images = Callable[..., torch.Tensor]
CLASSES = 3


def arguments(axes: int, *, norm: bool = True) -> dict[str, Any]:
    """Of a U-Net of three stages, the second of which leaves the first axis as it is."""
    strides = [[1] * axes, [1, *[2] * (axes - 1)], [2] * axes]
    norm_op = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}[axes] if norm else None
    return {"n_stages": 3, "features_per_stage": [4, 8, 16], "conv_op": {2: nn.Conv2d, 3: nn.Conv3d}[axes],
            "kernel_sizes": [[3] * axes] * 3, "strides": strides, "n_conv_per_stage": [2, 1, 1],
            "n_conv_per_stage_decoder": [1, 1], "conv_bias": True, "norm_op": norm_op,
            "norm_op_kwargs": {"affine": True} if norm else None, "nonlin": nn.LeakyReLU}


def hybrid(axes: int, *, norm: bool = True, deep_supervision: bool = False) -> CNNTransformer:
    """As nnU-Net builds and initialises it."""
    network = CNNTransformer(2, CLASSES, **arguments(axes, norm=norm), transformer_blocks=2,
                             deep_supervision=deep_supervision)
    return network.apply(network.initialize)


def shake(network: nn.Module) -> None:
    """Move every weight a little, so that nothing is 0 any more."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)


class TestForward:
    @pytest.mark.parametrize("size", [(16, 16), (8, 24), (16, 8, 12)])
    def test_gives_logits_of_the_inputs_size(self, size: tuple[int, ...], random_images: Images) -> None:
        network = hybrid(len(size), deep_supervision=True)
        logits = network(random_images(2, 2, *size))
        halves = (size[0], *(extent // 2 for extent in size[1:]))
        assert [tuple(part.shape) for part in logits] == [(2, CLASSES, *size), (2, CLASSES, *halves)]

        network.decoder.deep_supervision = False
        assert torch.equal(network(random_images(2, 2, *size)), logits[0])

    def test_does_not_let_cases_see_each_other(self, random_images: Images) -> None:
        network, images = hybrid(2), random_images(3, 2, 16, 16)
        shake(network)
        torch.testing.assert_close(network(images)[1:2], network(images[1:2]), rtol=1e-4, atol=1e-5)

    def test_repeats_itself(self, random_images: Images) -> None:
        outcomes = []
        for _ in range(2):
            torch.manual_seed(4)
            network = hybrid(3)
            logits = network(random_images(2, 2, 8, 8, 8))
            outcomes.append([logits, *torch.autograd.grad(logits.square().mean(), list(network.parameters()),
                                                          allow_unused=True, materialize_grads=True)])
        assert all(torch.equal(*both) for both in zip(*outcomes, strict=True))


class TestInitialize:
    def test_starts_with_blocks_that_pass_on_features_and_position_as_they_are(self, random_images: Images) -> None:
        network, images = hybrid(2), random_images(2, 2, 16, 16)
        seen: list[torch.Tensor] = []
        network.transformer.norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        network(images)
        position = (seen[0] - network.encoder(images)[-1]).detach()
        torch.testing.assert_close(position[0], position[1])
        assert float(position.abs().max()) <= 1 + 1e-5

    def test_follows_nnunets_initialisation(self) -> None:
        network = CNNTransformer(1, 2, **{**arguments(2), "features_per_stage": [4, 8, 128]})
        network.apply(network.initialize)
        block = network.transformer.blocks[0]
        # He: a variance of 2 / fan-in (1 + 0.01^2).
        assert float(block.query_key_value.weight.detach().std()) == pytest.approx((2 / 128) ** 0.5, rel=0.02)
        assert all((layer.bias == 0).all() for layer in network.modules()
                   if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)) and layer.bias is not None)
        assert all((inner.mix.weight == 0).all() and (inner.adapter.up.weight == 0).all()
                   for inner in network.modules() if isinstance(inner, TransformerBlock))


class TestView:
    def test_reaches_from_corner_to_corner_where_the_unets_does_not(self, random_images: Images) -> None:
        """Without normalisation over space and with closed gates, attention is the only way across."""
        images = random_images(1, 2, 64, 64)
        other = images.clone()
        other[..., :4, :4] = 1 - other[..., :4, :4]
        unet = PlainConvUNet(2, num_classes=CLASSES, **arguments(2, norm=False))
        assert torch.equal(unet(other)[..., -8:, -8:], unet(images)[..., -8:, -8:])

        network = hybrid(2, norm=False)
        assert torch.equal(network(other)[..., -8:, -8:], network(images)[..., -8:, -8:])
        for block in network.transformer.blocks:
            nn.init.kaiming_normal_(block.mix.weight)
        assert ((network(other) - network(images)).abs()[..., -8:, -8:].amax(dim=1) > 0).all()


class TestGradient:
    @pytest.mark.parametrize("axes", [2, 3])
    def test_reaches_every_parameter(self, axes: int, random_images: Images) -> None:
        # Behind normalisation a convolution's bias would have no effect.
        network = hybrid(axes, norm=False, deep_supervision=True)
        shake(network)
        sum(part.square().mean() for part in network(random_images(2, 2, *[8] * axes))).backward()
        assert [name for name, parameter in network.named_parameters() if not parameter.grad.abs().max() > 0] == []

    def test_opens_what_starts_closed(self, random_images: Images) -> None:
        network = hybrid(2)
        network(random_images(2, 2, 16, 16)).square().mean().backward()
        for block in network.transformer.blocks:
            closed = [block.mix, block.feed_forward[-1], block.adapter.gate[2], block.adapter.up]
            assert all(layer.weight.grad.abs().max() > 0 for layer in closed)

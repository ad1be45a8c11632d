"""The CNN-transformer hybrid: its parts by hand, what nnU-Net expects of a network, and a view of the whole image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fuse4seg.followers.cnn_transformer import Adapter, CNNTransformer, TransformerBlock, heads_for, position_code


class TestPositionCode:
    @pytest.mark.parametrize(("size", "channels"), [((7, 5), 16), ((4, 3, 5), 20)])
    def test_tells_all_places_apart(self, size: tuple[int, ...], channels: int) -> None:
        codes = position_code(size, channels).flatten(1).T
        distances = torch.cdist(codes, codes) + torch.eye(len(codes))
        assert float(distances.min()) > 0.1

    @given(st.lists(st.integers(1, 6), min_size=2, max_size=3), st.integers(6, 40))
    def test_does_not_depend_on_the_size_of_the_map(self, size: list[int], channels: int) -> None:
        larger = position_code([extent + 3 for extent in size], channels)
        assert torch.equal(position_code(size, channels), larger[(slice(None), *(slice(extent) for extent in size))])

    @given(st.integers(0, 8), st.integers(0, 8), st.integers(0, 8), st.integers(0, 8))
    def test_products_depend_on_the_distance_alone(self, first: int, second: int, third: int, fourth: int) -> None:
        code = position_code((17, 17), 16)

        def product(place: tuple[int, int], other: tuple[int, int]) -> float:
            return float(code[:, place[0], place[1]] @ code[:, other[0], other[1]])

        # 4 waves per axis: the sum of cos(rate * distance) over both axes' waves.
        waves = torch.tensor([1.0, 0.1, 0.01, 0.001])
        by_hand = float((waves * (first - third)).cos().sum() + (waves * (second - fourth)).cos().sum())
        assert product((first, second), (third, fourth)) == pytest.approx(by_hand, abs=1e-4)
        assert product((first + 8, second), (third + 8, fourth)) == pytest.approx(by_hand, abs=1e-4)

    def test_leaves_channels_over_at_zero(self) -> None:
        code = position_code((3, 3, 3), 8)
        assert (code[6:] == 0).all()
        assert (code[:6].flatten(1).abs().sum(dim=1) > 0).all()


Images = Callable[..., torch.Tensor]
CONV_OP = {2: nn.Conv2d, 3: nn.Conv3d}


class TestAdapter:
    @pytest.mark.parametrize("size", [(8, 8), (5, 1), (4, 6, 4), (1, 3, 5)])
    def test_starts_as_the_identity(self, size: tuple[int, ...], random_images: Images) -> None:
        features = random_images(2, 8, *size)
        assert torch.equal(Adapter(CONV_OP[len(size)], 8)(features), features)

    @pytest.mark.parametrize("axes", [2, 3])
    def test_with_an_open_gate_scales_each_channel_of_each_case(self, axes: int, random_images: Images) -> None:
        adapter = Adapter(CONV_OP[axes], 4)
        squeeze, _, expand, _ = adapter.gate
        nn.init.ones_(squeeze.weight)
        nn.init.zeros_(squeeze.bias)
        with torch.no_grad():
            expand.weight.view(-1).copy_(torch.tensor([0.0, 1.0, -1.0, 0.5]))
        features = random_images(2, 4, *[6] * axes)

        squeezed = features.flatten(2).mean(dim=2).sum(dim=1, keepdim=True)  # positive, so LeakyReLU lets it through
        scales = 1 + torch.tanh(squeezed * torch.tensor([[0.0, 1.0, -1.0, 0.5]]))
        torch.testing.assert_close(adapter(features), features * scales.view(2, 4, *[1] * axes))

    def test_adds_what_comes_back_from_half_the_resolution(self) -> None:
        adapter = Adapter(nn.Conv2d, 1)
        with torch.no_grad():
            nn.init.zeros_(adapter.down[0].weight)[..., 1, 1] = 2.0  # the voxel under the kernel's middle, doubled
            nn.init.zeros_(adapter.down[0].bias)
            adapter.up.weight.copy_(torch.tensor([[[[1.0, 10.0], [100.0, 1000.0]]]]))
        features = torch.zeros(1, 1, 4, 5)
        features[0, 0, 2, 2], features[0, 0, 0, 4], features[0, 0, 1, 1] = 3.0, 1.0, 5.0

        expected = features.clone()
        expected[0, 0, 2:, 2:4] += 6 * torch.tensor([[1.0, 10.0], [100.0, 1000.0]])
        expected[0, 0, :2, 4] += 2 * torch.tensor([1.0, 100.0])  # an odd axis loses what lies beyond its end
        torch.testing.assert_close(adapter(features), expected)


@pytest.mark.parametrize(("channels", "heads"), [(512, 8), (320, 5), (160, 2), (32, 1), (592, 8), (134, 2)])
def test_heads_share_the_channels_evenly(channels: int, heads: int) -> None:
    assert heads_for(channels) == heads


def moved_block(axes: int, channels: int) -> TransformerBlock:
    """One that has been trained, so to speak: only its adapter is still the identity."""
    block = TransformerBlock(CONV_OP[axes], channels)
    for layer in (block.mix, block.feed_forward[-1]):
        nn.init.kaiming_normal_(layer.weight)
    return block


class TestTransformerBlock:
    @pytest.mark.parametrize("axes", [2, 3])
    def test_starts_as_the_identity(self, axes: int, random_images: Images) -> None:
        features = random_images(2, 8, *[4] * axes)
        assert torch.equal(TransformerBlock(CONV_OP[axes], 8)(features), features)

    @pytest.mark.parametrize("axes", [2, 3])
    def test_attends_as_pytorchs_own_layer_does(self, axes: int, random_images: Images) -> None:
        """torch.nn.TransformerEncoderLayer knows the same block, without the adapter."""
        block = moved_block(axes, 128)
        stock = nn.TransformerEncoderLayer(128, 2, dim_feedforward=512, dropout=0.0, activation="gelu", batch_first=True,
                                           norm_first=True)
        narrow, wide = block.feed_forward[3], block.feed_forward[1]
        same = {"self_attn.in_proj_weight": block.query_key_value.weight, "self_attn.in_proj_bias": torch.zeros(384),
                "self_attn.out_proj.weight": block.mix.weight, "self_attn.out_proj.bias": block.mix.bias,
                "linear1.weight": wide.weight, "linear1.bias": wide.bias,
                "linear2.weight": narrow.weight, "linear2.bias": narrow.bias,
                "norm1.weight": block.norm.weight, "norm1.bias": block.norm.bias,
                "norm2.weight": block.feed_forward[0].weight, "norm2.bias": block.feed_forward[0].bias}
        shapes = stock.state_dict()
        stock.load_state_dict({name: value.reshape(shapes[name].shape) for name, value in same.items()})
        features = random_images(2, 128, *[3] * axes)

        tokens = stock(features.flatten(2).transpose(1, 2))
        torch.testing.assert_close(block(features).flatten(2).transpose(1, 2), tokens, rtol=1e-4, atol=1e-4)

    def test_sees_the_whole_map_through_attention_alone(self, random_images: Images) -> None:
        block = moved_block(2, 8)
        features = random_images(1, 8, 9, 7)
        other = features.clone()
        other[..., 0, 0] += torch.arange(8.0)  # no constant, which normalisation would take away
        changed = (block(other) - block(features)).detach().abs().amax(dim=1)[0]
        assert float(changed.min()) > 1e-5


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
    network = CNNTransformer(2, CLASSES, **arguments(axes, norm=norm), blocks=2,
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

"""The transformer block: attention by hand, over the whole map, and the identity at the start."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from fuse4seg.networks.transformer_block import TransformerBlock, heads_for

Images = Callable[..., torch.Tensor]
CONV_OP = {2: nn.Conv2d, 3: nn.Conv3d}


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

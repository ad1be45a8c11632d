"""Transformer block with an adapter: every voxel of a coarse feature map attends to every other."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from fuse4seg.networks.adapter import Adapter
from fuse4seg.networks.convolution import ChannelNorm
from fuse4seg.networks.grid_attention import from_tokens, to_tokens

#: Channels of a head, at least.
HEAD_WIDTH = 64
#: The feed-forward layer widens the channels by this factor.
WIDENING = 4


def heads_for(channels: int) -> int:
    """As many heads of HEAD_WIDTH channels as there can be, but at least one, such that all have equally many."""
    return next(heads for heads in range(max(1, channels // HEAD_WIDTH), 0, -1) if channels % heads == 0)


class TransformerBlock(nn.Module):
    """Pre-norm self-attention over all voxels, adapter, feed-forward layer, each with a skip connection.

    It starts as the identity: the last layer of each branch is 0. (nnU-Net's optimiser has no warm-up.)

    Args:
        conv_op: ``torch.nn.Conv2d`` or ``torch.nn.Conv3d``.
        channels: Channels in and out.

    Source: method.md, "The network", follower: an adapter in every transformer block.
    """

    def __init__(self, conv_op: type[nn.Module], channels: int) -> None:
        super().__init__()
        self.channels, self.heads = channels, heads_for(channels)
        self.norm = ChannelNorm(channels)
        # Without bias: softmax takes no notice of a key's.
        self.query_key_value = conv_op(channels, 3 * channels, 1, bias=False)
        self.mix = conv_op(channels, channels, 1)
        self.adapter = Adapter(conv_op, channels)
        self.feed_forward = nn.Sequential(ChannelNorm(channels), conv_op(channels, WIDENING * channels, 1), nn.GELU(),
                                          conv_op(WIDENING * channels, channels, 1))
        self.reset()

    def forward(self, features: Tensor) -> Tensor:
        """Same shape as ``features``, (B, C, *S)."""
        tokens = (to_tokens(part, self.heads) for part in self.query_key_value(self.norm(features)).chunk(3, dim=1))
        attended = from_tokens(functional.scaled_dot_product_attention(*tokens), list(features.shape[2:]))
        features = self.adapter(features + self.mix(attended))
        return features + self.feed_forward(features)

    def reset(self) -> None:
        """Start as the identity."""
        self.adapter.reset()
        for layer in (self.mix, self.feed_forward[-1]):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

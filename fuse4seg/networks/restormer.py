"""Restormer's transformer block: channels attend to channels, so that its cost grows with the number of voxels alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from fuse4seg.networks.convolution import ChannelNorm


class ChannelAttention(nn.Module):
    r"""Multi-head attention between the channels of a head, each of length 1 over all voxels.

    .. math:: W_p V \, \mathrm{softmax}(\hat K \hat Q^T \cdot t)

    Args:
        conv_op: ``torch.nn.Conv2d`` or ``torch.nn.Conv3d``.
        channels: Channels in and out, a multiple of ``heads``.
        heads: Number of heads, each with a temperature t.
        groups: Of the 3-wide convolution that queries, keys and values come from.

    Source: Zamir et al., Restormer, CVPR 2022, section 3.1 and Eq. 1, where groups is 3 * channels.
    """

    def __init__(self, conv_op: type[nn.Module], channels: int, *, heads: int, groups: int) -> None:
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.asked = nn.Sequential(conv_op(channels, 3 * channels, 1, bias=False),
                                   conv_op(3 * channels, 3 * channels, 3, padding=1, groups=groups, bias=False))
        self.mix = conv_op(channels, channels, 1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Same shape as ``features``, (B, C, *S)."""
        query, key, value = (part.flatten(2).unflatten(1, (self.heads, -1)) for part in self.asked(features).chunk(3, dim=1))
        query, key = functional.normalize(query, dim=-1), functional.normalize(key, dim=-1)
        shares = (query @ key.transpose(-2, -1) * self.temperature).softmax(dim=-1)
        return self.mix((shares @ value).flatten(1, 2).unflatten(2, features.shape[2:]))


class GatedFeedForward(nn.Module):
    r"""Feed-forward layer in which one half gates the other.

    .. math:: W_o (\mathrm{GELU}(x_1) \odot x_2)

    Args:
        conv_op: ``torch.nn.Conv2d`` or ``torch.nn.Conv3d``.
        channels: Channels in and out.
        hidden: Channels of a half.
        groups: Of the 3-wide convolution of both halves.

    Source: Zamir et al., Restormer, CVPR 2022, section 3.2 and Eq. 2, where groups is 2 * hidden.
    """

    def __init__(self, conv_op: type[nn.Module], channels: int, *, hidden: int, groups: int) -> None:
        super().__init__()
        self.widen = nn.Sequential(conv_op(channels, 2 * hidden, 1, bias=False),
                                   conv_op(2 * hidden, 2 * hidden, 3, padding=1, groups=groups, bias=False))
        self.mix = conv_op(hidden, channels, 1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Same shape as ``features``, (B, C, *S)."""
        gate, gated = self.widen(features).chunk(2, dim=1)
        return self.mix(functional.gelu(gate) * gated)


class RestormerBlock(nn.Module):
    """Pre-norm block: attention between channels, then a gated feed-forward layer, each with a skip connection.

    Args:
        conv_op: ``torch.nn.Conv2d`` or ``torch.nn.Conv3d``.
        channels: Channels in and out, a multiple of ``heads``.
        heads: Number of heads.
        hidden: Channels of a half of the feed-forward layer.
        attention_groups: Groups of the attention's 3-wide convolution; None: every channel its own, as in Restormer.
        gate_groups: The same for the feed-forward layer.
    """

    def __init__(self, conv_op: type[nn.Module], channels: int, *, heads: int, hidden: int, attention_groups: int | None = None,
                 gate_groups: int | None = None) -> None:
        super().__init__()
        attention = ChannelAttention(conv_op, channels, heads=heads, groups=attention_groups or 3 * channels)
        feed_forward = GatedFeedForward(conv_op, channels, hidden=hidden, groups=gate_groups or 2 * hidden)
        self.attention = nn.Sequential(ChannelNorm(channels), attention)
        self.feed_forward = nn.Sequential(ChannelNorm(channels), feed_forward)

    def forward(self, features: Tensor) -> Tensor:
        """Same shape as ``features``, (B, C, *S)."""
        features = features + self.attention(features)
        return features + self.feed_forward(features)

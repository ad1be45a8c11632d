"""Cross-attention between modalities: the reference modality asks, the others answer."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from fuse4seg.networks.grid_attention import from_tokens, pool_to_grid, to_tokens


class CrossAttended(NamedTuple):
    """What cross-attention gives.

    Attributes:
        context: What the reference gathered from the others, shape (B, C, *S).
        maps: Where it looked: probabilities over the places of all other modalities, averaged over queries and heads,
            shape (B, N - 1, *G), sum 1 over modalities and places. None unless asked for.
    """

    context: Tensor
    maps: Tensor | None


class CrossAttention(nn.Module):
    r"""Attention from the reference modality to all others on a fixed grid.

    .. math:: \mathrm{softmax}\left( (W_q \Phi(M_r)) (W_k \Phi(M_{\ne r}))^T / \sqrt{d_k} \right) W_v \Phi(M_{\ne r})

    Args:
        conv_op: ``torch.nn.Conv2d`` or ``torch.nn.Conv3d``.
        channels: Channels of every modality's features, a multiple of ``heads``.
        reference: Index of the modality that asks.
        heads: Number of heads.

    Source: paper Eq. 8; N modalities as in method.md, "N modalities, 3D, missing modalities".
    """

    def __init__(self, conv_op: type[nn.Module], channels: int, *, reference: int = 0, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.reference = heads, reference
        self.query = conv_op(channels, channels, 1)
        self.key_value = conv_op(channels, 2 * channels, 1)

    def forward(self, low: Tensor, *, want_maps: bool = False) -> CrossAttended:
        """Attend.

        Args:
            low: Low-frequency features of every modality, shape (B, N, C, *S), N at least 2.
            want_maps: Also give the attention maps (costs the scores' memory).
        """
        asking = low[:, self.reference]
        others = [low[:, index] for index in range(low.shape[1]) if index != self.reference]
        grids = [pool_to_grid(features) for features in others]
        answers = [self.key_value(grid).chunk(2, dim=1) for grid in grids]
        key, value = (torch.cat([to_tokens(answer[part], self.heads) for answer in answers], dim=2) for part in (0, 1))
        query = to_tokens(self.query(asking), self.heads)
        context = from_tokens(functional.scaled_dot_product_attention(query, key, value), list(asking.shape[2:]))
        if not want_maps:
            return CrossAttended(context, None)
        scores = (query @ key.transpose(2, 3)) / query.shape[-1] ** 0.5
        maps = scores.softmax(dim=-1).mean(dim=(1, 2))
        return CrossAttended(context, maps.unflatten(1, (len(others), *grids[0].shape[2:])))

"""Cross-attention between modalities: the reference modality asks, the others answer."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from fuse4seg.networks.grid_attention import from_tokens, pool_to_grid, to_tokens
from fuse4seg.networks.presence import mean_of_present


class CrossAttended(NamedTuple):
    """What cross-attention gives.

    Attributes:
        context: What the reference gathered from the others, shape (B, C, *S).
        maps: Where it looked: probabilities over the places of all other modalities, averaged over queries and heads,
            shape (B, N - 1, *G), 0 for absent ones, sum 1 over modalities and places (0 where no other modality is there).
            None unless asked for.
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

    Source: paper Eq. 8; N modalities as in method.md, "Absent modalities".
    """

    def __init__(self, conv_op: type[nn.Module], channels: int, *, reference: int = 0, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.reference = heads, reference
        self.query = conv_op(channels, channels, 1)
        self.key_value = conv_op(channels, 2 * channels, 1)

    def forward(self, low: Tensor, *, present: Tensor | None = None, want_maps: bool = False) -> CrossAttended:
        """Attend.

        Where the reference is absent, the mean of the modalities that are there asks in its place; absent ones do not
        answer; where there is no other modality, the context is 0.

        Args:
            low: Low-frequency features of every modality, shape (B, N, C, *S), N at least 2.
            present: True where a case has a modality, bool of shape (B, N), one at least in each case; None for all.
            want_maps: Also give the attention maps (costs the scores' memory).
        """
        others = [index for index in range(low.shape[1]) if index != self.reference]
        asking, answering, answered = low[:, self.reference], None, None
        grids = [pool_to_grid(low[:, index]) for index in others]
        if present is not None:
            there = present[:, self.reference].view(-1, *[1] * (asking.ndim - 1))
            asking = torch.where(there, asking, mean_of_present(low, present))
            answered = present[:, others].any(dim=1).view(-1, 1, 1)
            # A softmax over nothing is NaN: where none answers, all do, and what they say is dropped.
            answering = (present[:, others].unsqueeze(1) | ~answered).repeat_interleave(grids[0][0, 0].numel(), dim=2)
            answering, answered = answering.unsqueeze(1), answered.unsqueeze(1)
        answers = [self.key_value(grid).chunk(2, dim=1) for grid in grids]
        key, value = (torch.cat([to_tokens(answer[part], self.heads) for answer in answers], dim=2) for part in (0, 1))
        query = to_tokens(self.query(asking), self.heads)
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=answering)
        if answered is not None:
            attended = attended.masked_fill(~answered, 0)
        context = from_tokens(attended, list(asking.shape[2:]))
        if not want_maps:
            return CrossAttended(context, None)
        scores = (query @ key.transpose(2, 3)) / query.shape[-1] ** 0.5
        if answering is not None:
            scores = scores.masked_fill(~answering, -torch.inf)
        maps = scores.softmax(dim=-1).mean(dim=(1, 2))
        if answered is not None:
            maps = maps.masked_fill(~answered.flatten(1), 0)
        return CrossAttended(context, maps.unflatten(1, (len(others), *grids[0].shape[2:])))

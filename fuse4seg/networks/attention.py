"""Attention to a fixed coarse grid, within a modality and between modalities: its cost grows with the number of voxels alone."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from fuse4seg.networks.presence import mean_of_present

#: Longest side of the key grid by number of axes: 64 keys in 2D as in 3D.
GRID_SIDE = {2: 8, 3: 4}


def pool_to_grid(features: Tensor) -> Tensor:
    """Average features on the key grid; axes that are shorter than the grid stay as they are.

    Args:
        features: Shape (B, C, *S), S of two or three axes.

    Returns:
        Shape (B, C, *G), every axis of G at most GRID_SIDE.
    """
    axes = features.ndim - 2
    *depth, rows, columns = [min(extent, GRID_SIDE[axes]) for extent in features.shape[2:]]
    if not depth:
        return functional.adaptive_avg_pool2d(features, [rows, columns])
    # PyTorch exports no pooling of volumes to ONNX; that within slices and then between them is the same.
    slices = functional.adaptive_avg_pool2d(features.flatten(1, 2), [rows, columns]).unflatten(1, features.shape[1:3])
    return functional.adaptive_avg_pool2d(slices.flatten(3), [*depth, rows * columns]).unflatten(3, [rows, columns])


def to_tokens(features: Tensor, heads: int) -> Tensor:
    """Shape (B, C, *S) to (B, heads, voxels, C / heads)."""
    return features.flatten(2).unflatten(1, (heads, -1)).transpose(2, 3)


def from_tokens(tokens: Tensor, size: list[int]) -> Tensor:
    """Undo :func:`to_tokens` for the spatial ``size``."""
    return tokens.transpose(2, 3).flatten(1, 2).unflatten(2, size)


class GridSelfAttention(nn.Module):
    """Multi-head self-attention whose keys and values are pooled to a fixed grid.

    Args:
        conv_op: ``torch.nn.Conv2d`` or ``torch.nn.Conv3d``.
        channels: Channels in and out, a multiple of ``heads``.
        heads: Number of heads.
    """

    def __init__(self, conv_op: type[nn.Module], channels: int, *, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = conv_op(channels, channels, 1)
        self.key_value = conv_op(channels, 2 * channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Same shape as ``features``, (B, C, *S)."""
        key, value = self.key_value(pool_to_grid(features)).chunk(2, dim=1)
        tokens = functional.scaled_dot_product_attention(*(to_tokens(t, self.heads)
                                                           for t in (self.query(features), key, value)))
        return from_tokens(tokens, list(features.shape[2:]))


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

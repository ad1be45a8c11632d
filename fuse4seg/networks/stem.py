"""Stems: a first layer that was trained on some channels, made into one that reads another number of them."""

from __future__ import annotations

from torch import Tensor


def spread_over(stem: Tensor, channels: int) -> Tensor:
    r"""Weights of a first convolution for another number of input channels, all of which weigh the same.

    .. math:: W'_{oc} = \frac{1}{C} \sum_{i=1}^{N} W_{oi}, \quad c = 1, \dots, C

    A grey image, which stands in all channels alike, gets the answer that it got before: there :math:`\sum_c W'_{oc} g =
    \sum_i W_{oi}\, g`. Of other images the mean over the channels gets it, and what tells them apart is learnt anew.

    Args:
        stem: Shape (O, N, *K), of any number of axes.
        channels: Number C of channels that the new one reads, at least 1.

    Returns:
        Shape (O, C, *K).

    Example:
        >>> import torch
        >>> spread_over(torch.tensor([[1.0, 2.0]]), 3)
        tensor([[1., 1., 1.]])
    """
    shared = stem.sum(dim=1, keepdim=True) / channels
    return shared.expand(-1, channels, *shared.shape[2:]).clone()

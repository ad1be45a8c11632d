"""Affine coupling: an invertible block for the high-frequency stream, so that no detail is lost."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fuse4seg.networks.convolution import conv_block


class AffineCoupling(nn.Module):
    r"""Invertible block on a channel split (a, b); the halves change places, so that the next block moves the other.

    .. math:: a' = a + \phi(b), \quad b' = b \odot e^{\rho(a')} + \eta(a'), \quad (a, b) \mapsto (b', a')

    Args:
        conv_op: ``torch.nn.Conv2d`` or ``torch.nn.Conv3d``.
        channels: Channels in and out.
        split: Channels of a, 1 to channels - 1; half of them if left out.

    Source: method.md, "The network", high-frequency stream.
    """

    def __init__(self, conv_op: type[nn.Module], channels: int, *, split: int | None = None) -> None:
        super().__init__()
        self.split = channels // 2 if split is None else split
        if not 0 < self.split < channels:
            raise ValueError(f"split must lie in 1..{channels - 1}, got {split}")
        rest = channels - self.split
        self.shift = nn.Sequential(conv_block(conv_op, rest, rest), conv_op(rest, self.split, 1))
        self.scale_and_shift = nn.Sequential(conv_block(conv_op, self.split, self.split),
                                             conv_op(self.split, 2 * rest, 1))

    def _log_scale_and_offset(self, first: Tensor) -> tuple[Tensor, Tensor]:
        raw, offset = self.scale_and_shift(first).chunk(2, dim=1)
        # Bounded, so that neither direction can overflow.
        return torch.tanh(raw), offset

    def forward(self, features: Tensor) -> Tensor:
        """Same shape as ``features``, (B, C, *S)."""
        first, second = features[:, :self.split], features[:, self.split:]
        first = first + self.shift(second)
        log_scale, offset = self._log_scale_and_offset(first)
        return torch.cat([second * log_scale.exp() + offset, first], dim=1)

    def inverse(self, features: Tensor) -> Tensor:
        """The input that :meth:`forward` maps to ``features``."""
        rest = features.shape[1] - self.split
        second, first = features[:, :rest], features[:, rest:]
        log_scale, offset = self._log_scale_and_offset(first)
        second = (second - offset) * (-log_scale).exp()
        return torch.cat([first - self.shift(second), second], dim=1)

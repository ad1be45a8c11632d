"""Intensity windows: z-scored channels become displayable images in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class IntensityWindow(nn.Module):
    r"""Map each channel linearly through its window and clamp; voxels outside the image become 0.

    .. math:: M_i = \min(1, \max(0, (x_i - low_i) / (high_i - low_i)))

    A voxel is outside where every channel is exactly 0: nnU-Net pads with 0 and leaves masked background at 0.

    Args:
        windows: One (low, high) per channel, in units of the normalised intensities, low below high.

    Source: method.md, "The network"; the windows are the fingerprint's percentiles of tissue.
    """

    def __init__(self, windows: Sequence[Sequence[float]]) -> None:
        super().__init__()
        pairs = [tuple(map(float, window)) for window in windows]
        # Checked as numbers: the model is also built on the meta device, where tensors have no values.
        if not pairs or any(len(pair) != 2 or not pair[0] < pair[1] for pair in pairs):
            raise ValueError(f"windows must be pairs (low, high) with low below high, got {windows}")
        bounds = torch.tensor(pairs)
        self.register_buffer("low", bounds[:, 0], persistent=False)
        self.register_buffer("high", bounds[:, 1], persistent=False)

    def forward(self, channels: Tensor) -> tuple[Tensor, Tensor]:
        """Window ``channels``.

        Args:
            channels: Normalised intensities, shape (B, N, *S).

        Returns:
            Sources in [0, 1], shape (B, N, *S), and the image's extent as 0 or 1, shape (B, 1, *S).
        """
        per_channel = (1, -1) + (1,) * (channels.ndim - 2)
        low, high = self.low.view(per_channel), self.high.view(per_channel)
        inside = (channels != 0).any(dim=1, keepdim=True).to(channels.dtype)
        return ((channels - low) / (high - low)).clamp(0, 1) * inside, inside

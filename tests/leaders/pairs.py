"""What tests of published leaders share: how one is made, noise, and structural similarity by scikit-image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from skimage.metrics import structural_similarity
from torch import nn

from fuse4seg.networks.pair_leader import PairLeader


def maker_of(kind: type[PairLeader]) -> Callable[..., Any]:
    """Function of axes, modalities and arguments that gives a leader, the same each time."""

    def leader(axes: int = 2, modalities: int = 2, **changed: Any) -> PairLeader:
        torch.manual_seed(0)
        conv_op = nn.Conv2d if axes == 2 else nn.Conv3d
        return kind(modalities, conv_op=conv_op, strides=[1, 2, 2], folding=modalities > 2, **changed)

    return leader


def images(*shape: int) -> torch.Tensor:
    """Noise in [0, 1], the same each time."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def similarity(first: np.ndarray, second: np.ndarray) -> float:
    """Scikit-image's structural similarity, without the border."""
    _, values = structural_similarity(first, second, data_range=1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
                                      full=True)
    return values[5:-5, 5:-5].mean()

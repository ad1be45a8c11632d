"""Legend of a fused image in colour: measured, how its colour changes when one modality is raised."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fuse4seg.inference.fuse_image import fuse_whole_image
from fuse4seg.inference.model import Model

#: How far each modality is raised, as a part of its intensity window.
RAISED = 0.1


def measure_legend(model: Model, channels: Tensor, *, present: Sequence[bool] | None = None) -> np.ndarray:
    """Fuse a case again with each modality raised a little everywhere inside.

    Args:
        model: Loaded; its first set of weights is measured.
        channels: Preprocessed, shape (C, Z, Y, X).
        present: Which modalities the case has; None for all.

    Returns:
        Mean change of each channel of the image over the change of each modality, shape (N, C); 0 of absent modalities.
    """
    network = next(model.with_each_weights())

    def fused(of: Tensor) -> Tensor:
        return fuse_whole_image(network, of, patch_size=model.patch_size, device=model.device, present=present).fused

    before = fused(channels)
    inside = (before > 0).any(dim=0)
    steps = RAISED * (network.window.high - network.window.low).cpu()
    changes = torch.zeros(network.modalities, model.colours)
    for modality in range(network.modalities):
        if present is None or present[modality]:
            raised = channels.clone()
            raised[modality][inside] += steps[modality]
            changes[modality] = (fused(raised) - before)[:, inside].mean(dim=1) / RAISED
    return changes.numpy()

"""Which modalities each case has: a modality that is absent is left out of everything."""

from __future__ import annotations

import torch
from torch import Tensor

from fuse4seg.ranks import world_size


def checked_presence(present: Tensor | None, sources: Tensor) -> Tensor | None:
    """``present`` on the device of ``sources``; None where nothing is absent, so that nothing is computed for it.

    Args:
        present: True where a case has a modality, bool of shape (B, N); None for all.
        sources: Shape (B, N, ...).

    Raises:
        ValueError: It is not of that type and shape, or a case has no modality at all.
    """
    if present is None:
        return None
    if present.dtype != torch.bool or present.shape != sources.shape[:2]:
        raise ValueError(f"present must be bool of shape {tuple(sources.shape[:2])}, "
                         f"got {present.dtype} of shape {tuple(present.shape)}")
    if not bool(present.any(dim=1).all()):
        raise ValueError("every case needs at least one modality that is present")
    # Several ranks keep it even so: all of them must do the same, and another may lack something.
    return None if world_size() == 1 and bool(present.all()) else present.to(sources.device)


def fill_absent(features: Tensor, present: Tensor | None, *, value: float = 0.0) -> Tensor:
    """``features``, shape (B, N, ...), with ``value`` in the place of absent modalities, whatever was there, NaN included."""
    if present is None:
        return features
    return features.masked_fill(~present.view(*present.shape, *[1] * (features.ndim - 2)), value)


def mean_of_present(features: Tensor, present: Tensor | None) -> Tensor:
    """Mean of features (B, N, ...) over the modalities that are present, shape (B, ...)."""
    mean = fill_absent(features, present).mean(dim=1)
    if present is None:
        return mean
    # The factor is exactly 1 for a case that lacks nothing: its neighbours in the batch do not change it.
    share = present.to(features.dtype).mean(dim=1)
    return mean / share.view(-1, *[1] * (mean.ndim - 1))


def maximum_of_present(features: Tensor, present: Tensor | None) -> Tensor:
    """Maximum of features (B, N, ...) over the modalities that are present, shape (B, ...)."""
    return fill_absent(features, present, value=-torch.inf).amax(dim=1)


def reference_apart(values: Tensor, reference: int) -> tuple[Tensor, Tensor]:
    """The reference's of values (B, N, ...), shape (B, 1, ...), and those of the others, shape (B, N - 1, ...)."""
    others = torch.cat([values[:, :reference], values[:, reference + 1:]], dim=1)
    return values[:, reference:reference + 1], others

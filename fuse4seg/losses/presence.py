"""Means over the modalities that cases have."""

from __future__ import annotations

from torch import Tensor


def mean_of_present(values: Tensor, present: Tensor | None = None) -> Tensor:
    """Mean of ``values`` where something is present.

    Args:
        values: One per case and modality, shape (B, N), per pair of them, (B, N, N), or per case, (B,).
        present: Bool of the same shape; None for all.

    Returns:
        Scalar; 0 where nothing is present.
    """
    if present is None:
        return values.mean()
    return (values * present).sum() / present.sum().clamp(min=1)

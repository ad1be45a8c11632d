"""Entropy of a network's class probabilities: of every voxel, and its mean over the boundary of what is segmented."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


def entropy(logits: Tensor, *, regions: bool) -> Tensor:
    r"""Entropy of class probabilities in nats.

    .. math:: -\sum_k p_k \log p_k

    Args:
        logits: Shape (K, ...).
        regions: Each output is a region of its own, a sigmoid; their entropies are added up. Else one softmax over all.

    Returns:
        Shape (...), from 0 to :func:`largest_entropy`.

    Source: Shannon, A Mathematical Theory of Communication, 1948.

    Example:
        >>> entropy(torch.zeros(2, 1), regions=False)
        tensor([0.6931])
    """
    if regions:
        # log p = -softplus(-x) and log (1 - p) = -softplus(x) lose no digits where p is near 0 or 1.
        share = torch.sigmoid(logits)
        return (share * functional.softplus(-logits) + (1 - share) * functional.softplus(logits)).sum(dim=0)
    logs = torch.log_softmax(logits, dim=0)
    return -(logs.exp() * logs).sum(dim=0)


def largest_entropy(outputs: int, *, regions: bool) -> float:
    """Entropy in nats where all classes are equally likely, or every region as likely as not.

    Example:
        >>> round(largest_entropy(4, regions=False), 4), round(largest_entropy(2, regions=True), 4)
        (1.3863, 1.3863)
    """
    return outputs * math.log(2) if regions else math.log(outputs)


class BoundaryEntropy:
    """Mean entropy over the boundary of a segmentation, which is given in blocks of slices, one after the other.

    A voxel is on the boundary where one that shares a face with it has another label; both are. Only the last slice of a block
    is kept until the next one.

    Args:
        regions: See :func:`entropy`.
    """

    def __init__(self, *, regions: bool) -> None:
        self._regions = regions
        self._sum, self._count = 0.0, 0
        self._last: tuple[Tensor, np.ndarray, np.ndarray] | None = None

    def add(self, logits: Tensor, labels: np.ndarray) -> None:
        """Take the next block.

        Args:
            logits: Shape (K, n, Y, X).
            labels: That were made of them, shape (n, Y, X).
        """
        boundary = _boundary(labels)
        if self._last is not None:
            above, above_labels, above_boundary = self._last
            across = above_labels != labels[0]
            boundary[0] |= across
            self._take(above, above_boundary | across)
        self._take(logits[:, :-1], boundary[:-1])
        # A view would keep the whole block.
        self._last = logits[:, -1].clone(), labels[-1].copy(), boundary[-1].copy()

    @property
    def mean(self) -> float | None:
        """In nats; None without a boundary. To be asked once, after the last block."""
        if self._last is not None:
            self._take(self._last[0], self._last[2])
            self._last = None
        return self._sum / self._count if self._count else None

    def _take(self, logits: Tensor, boundary: np.ndarray) -> None:
        count = int(boundary.sum())
        if count:
            found = entropy(logits[:, torch.from_numpy(boundary)].float(), regions=self._regions)
            self._sum += float(found.sum(dtype=torch.double))
            self._count += count


def _boundary(labels: np.ndarray) -> np.ndarray:
    """Where a neighbour by a face has another label, within the block."""
    found = np.zeros(labels.shape, bool)
    for axis in range(labels.ndim):
        before, after = (tuple(part if place == axis else slice(None) for place in range(labels.ndim))
                         for part in (slice(None, -1), slice(1, None)))
        differ = labels[before] != labels[after]
        found[before] |= differ
        found[after] |= differ
    return found

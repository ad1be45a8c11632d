"""How far several segmentations of one image are apart: folds, or mirrored copies. Sums are kept, and no segmentation."""

from __future__ import annotations

import torch
from torch import Tensor


def votes_of(logits: Tensor, *, regions: bool) -> Tensor:
    """Which classes a segmentation gives to each voxel: its label, or the regions that it lies in.

    Args:
        logits: Shape (B, K, *S).
        regions: Each output is a region of its own. Else the first one is background, which has no vote.

    Returns:
        bool, shape (B, K or K - 1, *S).

    Example:
        >>> votes_of(torch.tensor([[[0.0, 1.0], [2.0, -1.0], [1.0, -1.0]]]), regions=False).tolist()
        [[[True, False], [False, False]]]
    """
    if regions:
        return logits > 0
    chosen = logits.argmax(dim=1, keepdim=True)
    classes = torch.arange(1, logits.shape[1], device=logits.device)
    return chosen == classes.view(-1, *[1] * (logits.ndim - 2))


class Disagreement:
    r"""1 less the Dice between segmentations, mean over classes; pairs are pooled.

    Where m of n segmentations give a voxel to a class,

    .. math:: D = \frac{\sum_{i<j} 2 |A_i \cap A_j|}{\sum_{i<j} |A_i| + |A_j|} = \frac{\sum m (m - 1)}{(n - 1) \sum m}

    so that counts of votes will do. Of two segmentations it is their Dice.

    Args:
        regions: See :func:`votes_of`.

    Example:
        >>> found = Disagreement(regions=False)
        >>> found.add(torch.tensor([[[2, 2, 1, 0]]]), voters=2)  # one has three voxels, the other the first two
        >>> round(1 - found.value, 3)
        0.8
    """

    def __init__(self, *, regions: bool) -> None:
        self.regions = regions
        self._pairs: Tensor | None = None
        self._sizes: Tensor | None = None

    def add(self, votes: Tensor, *, voters: int, weight: Tensor | None = None) -> None:
        """Take a part of the image, or a window of it.

        Args:
            votes: How many segmentations give a voxel to a class, shape (B, classes, *S).
            voters: How many segmentations there are, two at least.
            weight: Of the voxels, shape (*S); None where all count alike.
        """
        votes = votes.float()
        seen = votes if weight is None else votes * weight.to(votes.device)
        axes = [axis for axis in range(votes.ndim) if axis != 1]
        pairs, sizes = ((part.sum(dim=axes) / count).cpu().double()
                        for part, count in ((seen * (votes - 1), voters - 1), (seen, 1)))
        self._pairs = pairs if self._pairs is None else self._pairs + pairs
        self._sizes = sizes if self._sizes is None else self._sizes + sizes

    @property
    def value(self) -> float | None:
        """From 0 (all alike, also where nobody segments anything) to 1; None where there is nothing to compare."""
        if self._pairs is None:
            return None
        there = self._sizes > 0
        return float(1 - (self._pairs[there] / self._sizes[there]).mean()) if there.any() else 0.0

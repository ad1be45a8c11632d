"""Doubt about a case: what its segmentation gives away without a reference, and one number to sort cases by."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.ndimage import find_objects
from scipy.ndimage import label as label_components
from torch import Tensor
from torch.nn import functional

from fuse4seg.datasets.dataset_json import foreground_classes
from fuse4seg.evaluation.volumes import mask_of, robust_deviation, volumes_of, voxel_volume
from fuse4seg.inference.model import ModelDescription

#: Robust standard deviations within which a size is no reason to doubt.
USUAL = 3.0


def facts_of(labels: np.ndarray, spacing: Sequence[float], description: ModelDescription, *, entropy: float | None,
             disagreement: float | None) -> dict[str, Any]:
    """What the record of a run tells of a segmented case.

    Args:
        labels: As written, shape (Z, Y, X).
        spacing: Millimetres along Z, Y, X.
        description: The model's, with the volumes of its training set.
        entropy: Mean over the boundary in nats, see :class:`BoundaryEntropy`; None without one.
        disagreement: See :class:`Disagreement`; None where nothing can be compared.

    Returns:
        "volumes", in millilitres by label or region; and "doubt": entropy, disagreement, components (touching by a corner is
        enough) and size by label or region (see :func:`~fuse4seg.evaluation.volumes.robust_deviation`), and score.
    """
    classes = foreground_classes(description.dataset_json)
    volumes, voxel = volumes_of(labels, spacing, classes), voxel_volume(spacing)
    size = {name: robust_deviation(volume, description.volumes.get(name, ()), smallest=voxel) for name, volume in volumes.items()}
    manager = description.label_manager
    largest = largest_entropy(manager.num_segmentation_heads, regions=manager.has_regions)
    score = doubt_score(None if entropy is None else entropy / largest, disagreement, size)
    return {"volumes": volumes, "doubt": {"entropy": entropy, "disagreement": disagreement,
                                          "components": components_of(labels, classes), "size": size, "score": score}}


def components_of(labels: np.ndarray, classes: Mapping[str, int | tuple[int, ...]]) -> dict[str, int]:
    """Number of connected components of each label or region; voxels that touch by a corner are connected.

    Args:
        labels: Label values, shape (Z, Y, X).
        classes: Label value, or values of a region, by name.

    Source: scipy.ndimage.label.

    Example:
        >>> components_of(np.array([[[1, 0, 1, 2]]]), {"core": 1, "whole": (1, 2)})
        {'core': 2, 'whole': 2}
    """
    inside = find_objects((labels > 0).view(np.uint8))
    found = labels[inside[0]] if inside else labels[:0]
    touching = np.ones((3,) * labels.ndim)
    return {name: int(label_components(mask_of(found, entry), touching)[1]) for name, entry in classes.items()}


def doubt_score(entropy: float | None, disagreement: float | None, size: Mapping[str, float | None]) -> float:
    r"""One number to sort cases by; the higher, the more there is to doubt.

    .. math:: 1 - (1 - D) (1 - S), \quad S = \max(0, 1 - 3 / \max_c |z_c|)

    Where nothing could be compared, the entropy stands in for D. Beside D it would dilute it: of faint lesions all boundaries
    are uncertain, the rightly drawn ones, too. Sizes within three deviations would dilute both.

    Args:
        entropy: Mean over the boundary over the largest there can be, in [0, 1].
        disagreement: D, in [0, 1].
        size: z by label or region, in robust standard deviations.

    Returns:
        From 0 to 1; what is None counts as no doubt.

    Example:
        >>> doubt_score(0.5, 0.2, {"core": None, "whole": -2.0}), doubt_score(0.5, 0.2, {"core": None, "whole": -6.0})
        (0.2, 0.6)
    """
    largest = max((abs(deviation) for deviation in size.values() if deviation is not None), default=0.0)
    unusual = 1 - USUAL / max(largest, USUAL)
    apart = entropy if disagreement is None else disagreement
    return 1 - (1 - (apart or 0.0)) * (1 - unusual)


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

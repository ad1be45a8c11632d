"""Fusion loss: what the fusion network is held to beside the segmentation, as a weighted sum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from torch import Tensor

from fuse4seg.losses.adversarial import generator_loss
from fuse4seg.losses.decomposition import decomposition_loss
from fuse4seg.losses.intensity import intensity_loss
from fuse4seg.losses.texture import texture_loss


@dataclass(frozen=True)
class FusionLossWeights:
    """Weight of each part of the fusion loss; 0 leaves the part out.

    Raises:
        ValueError: A weight is negative, infinite or not a number.
    """

    intensity: float = 1.0
    texture: float = 5.0
    decomposition: float = 0.1
    adversarial: float = 0.01

    def __post_init__(self) -> None:
        for part, weight in asdict(self).items():
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f"the weight of the {part} loss must be 0 or more, got {weight}")


def fusion_loss(fused: Tensor, sources: Tensor, *, low: Tensor, high: Tensor, logits: Sequence[Tensor] | None,
                weights: FusionLossWeights, present: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
    r"""Weighted sum of the intensity, texture, decomposition and adversarial losses.

    .. math:: L^f = w_I L_{int} + w_T L_{text} + w_D L_{corr} + w_A L_{adv}

    Args:
        fused: Fused image in [0, 1], shape (B, 1, *S), S of two or three axes.
        sources: Source modalities in [0, 1], shape (B, N, *S). Absent ones are 0, which changes neither the maximum of
            the intensities nor that of the edges.
        low: Low-frequency features of each modality, shape (B, N, C, *S').
        high: High-frequency features of each modality, shape (B, N, C', *S'').
        logits: Each modality's discriminator on the fused image, where any case has that modality; None leaves the adversarial
            part out.
        weights: Weight of each part.
        present: True where a case has a modality, bool of shape (B, N); None for all.

    Returns:
        The weighted sum, a scalar, and the unweighted, detached value of each part that was computed, by its name in
        :class:`FusionLossWeights`.

    Source: method.md, "Two stages", stage 2.
    """
    parts: dict[str, Tensor] = {}
    if weights.intensity:
        parts["intensity"] = intensity_loss(fused, sources)
    if weights.texture:
        parts["texture"] = texture_loss(fused, sources)
    if weights.decomposition:
        parts["decomposition"] = decomposition_loss(low, high, present=present)
    if weights.adversarial and logits is not None:
        parts["adversarial"] = generator_loss(logits)
    total = sum((getattr(weights, name) * part for name, part in parts.items()), start=fused.new_zeros(()))
    return total, {name: part.detach() for name, part in parts.items()}

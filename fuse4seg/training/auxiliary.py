"""Loss of the auxiliary head, at the resolution of the leader's features."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.nn import functional


def labels_at(size: Sequence[int], targets: Tensor | list[Tensor]) -> Tensor:
    """Labels (B, C, *size): the deep supervision target of that size, or the finest one thinned out to it.

    Args:
        size: Spatial size.
        targets: Labels (B, C, *S), or a list of them, finest first.
    """
    known = targets if isinstance(targets, list) else [targets]
    fitting = [target for target in known if tuple(target.shape[2:]) == tuple(size)]
    return fitting[0] if fitting else functional.interpolate(known[0].float(), size=list(size), mode="nearest")


class AuxiliaryLoss:
    """What the bi-level step adds to the leader's objective.

    Args:
        head: The auxiliary head.
        segmentation_loss: nnU-Net's loss for one resolution.
    """

    def __init__(self, head: nn.Module, segmentation_loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.head, self.segmentation_loss = head, segmentation_loss

    def __call__(self, decoded: Tensor, targets: Tensor | list[Tensor]) -> Tensor:
        """Scalar loss of the head on the leader's features (B, c, *t)."""
        logits = self.head(decoded)
        return self.segmentation_loss(logits, labels_at(logits.shape[2:], targets))

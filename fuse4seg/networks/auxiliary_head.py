"""Auxiliary segmentation head on the leader's features: a task signal of the leader's own, for training only."""

from __future__ import annotations

from torch import Tensor, nn

from fuse4seg.networks.convolution import conv_block


class AuxiliaryHead(nn.Module):
    """Logits from the features that the fused image is painted from, at their resolution.

    A follower that has not found a class yet sends no gradient that would bring the class out in the fused image. This head
    does, and what it makes the features tell apart, gate and decoder can show.

    Args:
        conv_op: ``torch.nn.Conv2d`` or ``torch.nn.Conv3d``.
        features: Channels of the decoder's features.
        classes: Outputs of the segmentation network.

    Source: method.md, "Two stages" (the auxiliary head).
    """

    def __init__(self, conv_op: type[nn.Module], features: int, *, classes: int) -> None:
        super().__init__()
        self.head = nn.Sequential(conv_block(conv_op, features, features), conv_op(features, classes, 1))

    def forward(self, decoded: Tensor) -> Tensor:
        """Logits (B, classes, *t) of features (B, c, *t)."""
        return self.head(decoded)

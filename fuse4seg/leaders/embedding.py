"""The paper's leader without its decoder: the follower reads the fused embedding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fuse4seg.networks.convolution import LINEAR
from fuse4seg.networks.dual_stream import DualStreamLeader, DualStreamSettings


@dataclass(frozen=True)
class Settings(DualStreamSettings):
    """Entries of both streams."""


class EmbeddingLeader(DualStreamLeader):
    """Three or one channels of the fused embedding, brought to full size, in place of an image.

    What a reader of these channels gets to see is not made for reading: nothing painted them. There is nothing to reconstruct
    with either, so stage 1 is left out.

    Args:
        modalities, conv_op, strides, reference, colours: As every leader takes them.
        **streams: See :class:`DualStreamLeader`.

    Source: paper, Table 3, "w/o Reconstruction Decoder". How many channels its follower read is not stated; as many as an image
    has can be stored and scored like one.

    Example:
        >>> leader = EmbeddingLeader(2, conv_op=nn.Conv2d, strides=[1, 2, 2])
        >>> leader(torch.rand(1, 2, 20, 30)).image.shape
        torch.Size([1, 3, 20, 30])
    """

    rebuilds = False

    def __init__(self, modalities: int, *, conv_op: type[nn.Module], strides: Sequence[Sequence[int] | int], reference: int = 0,
                 colours: int = 3, **streams: Any) -> None:
        super().__init__(modalities, conv_op=conv_op, strides=strides, reference=reference, colours=colours, **streams)
        self.decoder = None
        self.together = conv_op(self.base_features + self.detail_features, self.detail_features, 1)
        self.shown = conv_op(self.detail_features, colours, 1)
        self.to(memory_format=torch.channels_last if self.axes == 2 else torch.channels_last_3d)

    def decoded(self, base: Tensor, detail: Tensor) -> Tensor:
        """Both frequencies' features side by side, mixed voxel by voxel."""
        base = functional.interpolate(base, size=detail.shape[2:], mode=LINEAR[self.axes])
        return self.together(torch.cat([base, detail], dim=1))

    def paint(self, decoded: Tensor, high: Tensor, sources: Tensor, *, present: Tensor | None) -> tuple[Tensor, None]:
        """The embedding in [0, 1]; see :class:`DualStreamLeader`."""
        return functional.interpolate(self.shown(decoded).sigmoid(), size=sources.shape[2:], mode=LINEAR[self.axes]), None

    def reconstruct(self, sources: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """There is no decoder to do so.

        Raises:
            NotImplementedError: Always; planning refuses a stage 1.
        """
        raise NotImplementedError


LEADER = EmbeddingLeader

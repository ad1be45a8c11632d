"""The paper's leader: the decoder gives the fused image, one channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fuse4seg.errors import RecipeError
from fuse4seg.networks.dual_stream import DualStreamLeader, DualStreamSettings


@dataclass(frozen=True)
class Settings(DualStreamSettings):
    """Entries of both streams.

    Raises:
        RecipeError: The image is to have colours.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fused_image != "grey":
            raise RecipeError("leader.fused_image", "the decoder gives one channel. Set it to grey.")


class DecoderLeader(DualStreamLeader):
    """The paper's fusion network: no gate and no mixture, so that nothing holds the image to its sources but the losses.

    It can hide what the follower reads in dots too fine to be seen, which the measure of visibility shows.

    Args:
        modalities, conv_op, strides, reference, colours: As every leader takes them; colours is 1.
        **streams: See :class:`DualStreamLeader`.

    Source: paper, "Fusion network", Eq. 8; the same decoder reconstructs single modalities in stage 1.

    Example:
        >>> leader = DecoderLeader(2, conv_op=nn.Conv2d, strides=[1, 2, 2])
        >>> leader(torch.rand(1, 2, 20, 30)).image.shape
        torch.Size([1, 1, 20, 30])
    """

    def __init__(self, modalities: int, *, conv_op: type[nn.Module], strides: Sequence[Sequence[int] | int], reference: int = 0,
                 colours: int = 1, **streams: Any) -> None:
        if colours != 1:
            raise ValueError(f"the decoder gives one channel, not {colours}")
        super().__init__(modalities, conv_op=conv_op, strides=strides, reference=reference, colours=colours, **streams)
        self.to(memory_format=torch.channels_last if self.axes == 2 else torch.channels_last_3d)

    def paint(self, decoded: Tensor, high: Tensor, sources: Tensor, *, present: Tensor | None) -> tuple[Tensor, None]:
        """What the decoder paints; see :class:`DualStreamLeader`."""
        return self.decoder.painted(decoded), None


LEADER = DecoderLeader

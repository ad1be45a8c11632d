"""Ours: each channel of the image is a mixture of sources and a tint, with shares that change smoothly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fuse4seg.networks.dual_stream import DualStreamLeader, DualStreamSettings
from fuse4seg.networks.gate import Gate
from fuse4seg.recipes.recipe import entry


@dataclass(frozen=True)
class Settings(DualStreamSettings):
    """Entries of the gate and of both streams."""

    brighter: float = entry("how strongly the brighter source is preferred before training", least=0, planned=True)


class GateLeader(DualStreamLeader):
    """Our own leader: nothing finer than the features' grid is in the image but what the sources show.

    Args:
        modalities, conv_op, strides, reference, colours: As every leader takes them.
        brighter: How strongly the :class:`~fuse4seg.networks.gate.Gate` prefers the brighter source before training.
        **streams: See :class:`DualStreamLeader`.

    Example:
        >>> leader = GateLeader(2, conv_op=nn.Conv2d, strides=[1, 2, 2])
        >>> leader(torch.rand(1, 2, 20, 30)).image.shape
        torch.Size([1, 3, 20, 30])
    """

    def __init__(self, modalities: int, *, conv_op: type[nn.Module], strides: Sequence[Sequence[int] | int], reference: int = 0,
                 colours: int = 3, brighter: float = 0.0, **streams: Any) -> None:
        super().__init__(modalities, conv_op=conv_op, strides=strides, reference=reference, colours=colours, **streams)
        self.gate = Gate(conv_op, self.detail_features, modalities=modalities, colours=colours, brighter=brighter)
        # Few channels at many places: with the channels of a voxel side by side, a pass takes two thirds of the time.
        self.to(memory_format=torch.channels_last if self.axes == 2 else torch.channels_last_3d)

    def paint(self, decoded: Tensor, high: Tensor, sources: Tensor, *, present: Tensor | None) -> tuple[Tensor, Tensor]:
        """The mixture, and the shares in it; see :class:`DualStreamLeader`."""
        return self.gate(decoded, high, sources, present=present)

    def initialise(self) -> None:
        """He initialisation; the gate starts from the palette alone."""
        super().initialise()
        self.gate.reset()


LEADER = GateLeader

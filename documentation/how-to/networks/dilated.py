"""Dilated: convolutions that look ever farther, at full resolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from fuse4seg.networks.follower import FixedFollower, FollowerKind
from fuse4seg.recipes.recipe import Follower, entry


@dataclass(frozen=True)
class Settings(Follower):
    """Entries of the dilated network."""

    width: int = entry("channels of its layers", least=1, planned=True)


class Dilated(FixedFollower):
    """Four convolutions, and a head."""

    def __init__(self, input_channels: int, num_classes: int, *, conv_op: type[nn.Module] = nn.Conv2d,
                 strides: Sequence[Sequence[int]] = (), deep_supervision: bool = False, width: int = 16) -> None:
        super().__init__(multiple=1)
        layers: list[nn.Module] = []
        for before, reach in ((input_channels, 1), (width, 2), (width, 4), (width, 8)):
            layers += [conv_op(before, width, 3, padding=reach, dilation=reach), nn.LeakyReLU()]
        self.layers = nn.Sequential(*layers, conv_op(width, num_classes, 1))

    def segment(self, images: Tensor) -> Tensor:
        return self.layers(images)


FOLLOWER = FollowerKind(Dilated, fixed=True, deep_supervision=False)

"""Shares: a small network says how much of each of two images is shown in a voxel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fuse4seg.losses.ssim import ssim_of_each
from fuse4seg.networks.pair_leader import PAIR, Fold, PairLeader, PairSettings
from fuse4seg.recipes.recipe import entry


@dataclass(frozen=True)
class Settings(PairSettings):
    """Entries of the shares."""

    width: int = entry("channels of its layer", least=1, planned=True)
    similarity: float = entry("weight of 1 - SSIM to both images", least=0)


class Shares(PairLeader):
    """A mixture of both images, voxel by voxel."""

    def __init__(self, modalities: int, *, conv_op: type[nn.Module], width: int, similarity: float,
                 **common: Any) -> None:
        super().__init__(modalities, conv_op=conv_op, **common)
        self.similarity = similarity
        self.layers = nn.Sequential(conv_op(PAIR, width, 3, padding=1), nn.LeakyReLU(), conv_op(width, 1, 1),
                                    nn.Sigmoid())

    def fuse_pair(self, first: Tensor, second: Tensor) -> tuple[Tensor, None]:
        share = self.layers(torch.cat([first, second], dim=1))
        return share * first + (1 - share) * second, None

    def pair_losses(self, fold: Fold) -> dict[str, Tensor]:
        alike = ssim_of_each(fold.image, torch.cat([fold.first, fold.second], dim=1))
        return {"similarity": self.similarity * (1 - alike).mean()}


LEADER = Shares

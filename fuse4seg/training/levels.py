"""Both levels and all that moves them, built alike for a training and for counting its memory."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fuse4seg.losses.fusion import FusionLossWeights
from fuse4seg.networks.decoder import AuxiliaryHead
from fuse4seg.networks.discriminator import Discriminator
from fuse4seg.networks.fuse_then_segment import FuseThenSegment
from fuse4seg.training.auxiliary import AuxiliaryLoss
from fuse4seg.training.bilevel import BilevelSettings, BilevelStep, Level
from fuse4seg.training.fusion_step import FusionStep
from fuse4seg.training.pretraining import PretrainingStep, PretrainingWeights


@dataclass
class Levels:
    """What a training moves, and what moves it.

    Attributes:
        network: Leader and follower.
        auxiliary_head: The leader's own segmentation head.
        discriminators: One per modality.
        leader: Parameters of the fusion network and the auxiliary head, and their optimiser.
        follower: Parameters of the segmentation network, and their optimiser.
        discriminator_optimiser: Of all discriminators.
    """

    network: FuseThenSegment
    auxiliary_head: nn.Module
    discriminators: nn.ModuleList
    leader: Level
    follower: Level
    discriminator_optimiser: torch.optim.Optimizer

    def modules(self) -> list[nn.Module]:
        """All that has parameters."""
        return [self.network, self.auxiliary_head, self.discriminators]

    def pretraining_step(self, weights: PretrainingWeights, *, rate: float) -> PretrainingStep:
        """Step of stage 1, which moves the fusion network by an Adam of its own, from ``rate`` on."""
        return PretrainingStep(self.network, torch.optim.Adam(self.network.fusion.parameters(), rate),
                               discriminators=self.discriminators, discriminator_optimiser=self.discriminator_optimiser,
                               weights=weights)

    def bilevel_step(self, loss: Callable[[object, object], Tensor], settings: BilevelSettings, *,
                     loss_at_one_resolution: Callable[[Tensor, Tensor], Tensor], scaler: torch.amp.GradScaler | None = None,
                     autocast: Callable[[], object] = nullcontext) -> BilevelStep:
        """Step of stage 2; see :class:`BilevelStep`."""
        return BilevelStep(self.network, loss, leader=self.leader, follower=self.follower, discriminators=self.discriminators,
                           discriminator_optimiser=self.discriminator_optimiser,
                           auxiliary=AuxiliaryLoss(self.auxiliary_head, loss_at_one_resolution), settings=settings,
                           scaler=scaler, autocast=autocast)

    def fusion_step(self, weights: FusionLossWeights, *, scaler: torch.amp.GradScaler | None = None,
                    autocast: Callable[[], object] = nullcontext) -> FusionStep:
        """Step of stage 2 where there is nothing to segment; see :class:`FusionStep`."""
        return FusionStep(self.network, self.leader.optimiser, discriminators=self.discriminators,
                          discriminator_optimiser=self.discriminator_optimiser, weights=weights, scaler=scaler,
                          autocast=autocast)


#: Of nnU-Net's SGD, with Nesterov.
MOMENTUM = 0.99


def build_levels(network: FuseThenSegment, *, classes: int, leader_rate: float, follower_rate: float,
                 weight_decay: float) -> Levels:
    """Levels around ``network``, on its device: Adam for leader and discriminators, nnU-Net's SGD for the follower.

    Args:
        network: Leader and follower.
        classes: Outputs of the follower.
        leader_rate: First learning rate of the leader and the discriminators.
        follower_rate: First learning rate of the follower.
        weight_decay: Of the follower.
    """
    conv_op = type(network.fusion.fuse_low)
    device = next(network.parameters()).device
    head = AuxiliaryHead(conv_op, network.fusion.detail_features, classes=classes).to(device)
    discriminators = nn.ModuleList(Discriminator(len(network.fusion.total_stride)) for _ in range(network.modalities)).to(device)
    leading = [*network.fusion.parameters(), *head.parameters()]
    following = list(network.segmentation.parameters())
    follower = torch.optim.SGD(following, follower_rate, momentum=MOMENTUM, nesterov=True, weight_decay=weight_decay)
    return Levels(network, head, discriminators, leader=Level(leading, torch.optim.Adam(leading, leader_rate)),
                  follower=Level(following, follower),
                  discriminator_optimiser=torch.optim.Adam(discriminators.parameters(), leader_rate))

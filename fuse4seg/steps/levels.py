"""Both levels and all that moves them, built alike for a training and for counting its memory."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fuse4seg.networks.decoder import AuxiliaryHead
from fuse4seg.networks.discriminator import Discriminator
from fuse4seg.networks.fuse_then_segment import FuseThenSegment
from fuse4seg.recipes.recipe import Recipe
from fuse4seg.steps.bilevel import AuxiliaryLoss, BilevelStep, Level
from fuse4seg.steps.fusion import FusionStep
from fuse4seg.steps.pretraining import PretrainingStep


@dataclass
class Levels:
    """What a training moves, and what moves it.

    Attributes:
        network: Leader and follower.
        recipe: What the steps are made of.
        auxiliary_head: The leader's own segmentation head.
        discriminators: One per modality.
        leader: Parameters of the fusion network and the auxiliary head, and their optimiser.
        follower: Parameters of the segmentation network, and their optimiser.
        discriminator_optimiser: Of all discriminators.
    """

    network: FuseThenSegment
    recipe: Recipe
    auxiliary_head: nn.Module
    discriminators: nn.ModuleList
    leader: Level
    follower: Level
    discriminator_optimiser: torch.optim.Optimizer

    def modules(self) -> list[nn.Module]:
        """All that has parameters."""
        return [self.network, self.auxiliary_head, self.discriminators]

    def pretraining_step(self) -> PretrainingStep:
        """Step of stage 1, which moves the fusion network by an Adam of its own."""
        return PretrainingStep(self.network, torch.optim.Adam(self.network.fusion.parameters(), self.recipe.leader.rate),
                               weights=self.recipe.pretraining, discriminators=self.discriminators,
                               discriminator_optimiser=self.discriminator_optimiser)

    def bilevel_step(self, loss: Callable[[object, object], Tensor], *,
                     loss_at_one_resolution: Callable[[Tensor, Tensor], Tensor], scaler: torch.amp.GradScaler | None = None,
                     autocast: Callable[[], object] = nullcontext) -> BilevelStep:
        """Step of stage 2 of a recipe that segments; see :class:`BilevelStep`."""
        return BilevelStep(self.network, loss, leader=self.leader, follower=self.follower, settings=self.recipe.bilevel,
                           losses=self.recipe.losses, discriminators=self.discriminators,
                           discriminator_optimiser=self.discriminator_optimiser,
                           auxiliary=AuxiliaryLoss(self.auxiliary_head, loss_at_one_resolution), scaler=scaler, autocast=autocast)

    def fusion_step(self, *, scaler: torch.amp.GradScaler | None = None,
                    autocast: Callable[[], object] = nullcontext) -> FusionStep:
        """Step of stage 2 where there is nothing to segment; see :class:`FusionStep`."""
        return FusionStep(self.network, self.leader.optimiser, weights=self.recipe.losses, discriminators=self.discriminators,
                          discriminator_optimiser=self.discriminator_optimiser, scaler=scaler, autocast=autocast)


def build_levels(network: FuseThenSegment, *, classes: int, recipe: Recipe) -> Levels:
    """Levels around ``network``, on its device: Adam for leader and discriminators, SGD for the follower.

    Args:
        network: Leader and follower.
        classes: Outputs of the follower.
        recipe: First learning rates, and the rest of what the steps are made of.
    """
    conv_op = type(network.fusion.fuse_low)
    device = next(network.parameters()).device
    head = AuxiliaryHead(conv_op, network.fusion.detail_features, classes=classes).to(device)
    discriminators = nn.ModuleList(Discriminator(len(network.fusion.total_stride)) for _ in range(network.modalities)).to(device)
    leading = [*network.fusion.parameters(), *head.parameters()]
    following, by = list(network.segmentation.parameters()), recipe.follower
    follower = torch.optim.SGD(following, by.rate, momentum=by.momentum, nesterov=by.nesterov, weight_decay=by.weight_decay)
    return Levels(network, recipe, head, discriminators, leader=Level(leading, torch.optim.Adam(leading, recipe.leader.rate)),
                  follower=Level(following, follower),
                  discriminator_optimiser=torch.optim.Adam(discriminators.parameters(), recipe.leader.rate))

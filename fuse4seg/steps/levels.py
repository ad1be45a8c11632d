"""Both levels and all that moves them, built alike for a training and for counting its memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fuse4seg.networks.decoder import AuxiliaryHead
from fuse4seg.networks.discriminator import CONVOLUTIONS
from fuse4seg.networks.fuse_then_segment import FuseThenSegment
from fuse4seg.networks.leader import Adversary
from fuse4seg.recipes.recipe import Follower, Recipe
from fuse4seg.steps.adversary import OnePerModality
from fuse4seg.steps.bilevel import AuxiliaryLoss, BilevelStep, Level
from fuse4seg.steps.fusion import FusionStep
from fuse4seg.steps.pretraining import PretrainingStep


@dataclass
class Levels:
    """What a training moves, and what moves it.

    Attributes:
        network: Leader and follower.
        recipe: What the steps are made of.
        auxiliary_head: The leader's own segmentation head; None where the leader has no features for one.
        adversary: The leader's discriminators.
        leader: Parameters of the fusion network and the auxiliary head, and their optimiser.
        follower: Parameters of the segmentation network, and their optimiser.
        discriminator_optimiser: Of all discriminators.
    """

    network: FuseThenSegment
    recipe: Recipe
    auxiliary_head: nn.Module | None
    adversary: Adversary
    # nnU-Net writes what a trainer has into debug.json; weights are of no use there.
    leader: Level = field(repr=False)
    follower: Level = field(repr=False)
    discriminator_optimiser: torch.optim.Optimizer

    def modules(self) -> list[nn.Module]:
        """All that has parameters."""
        return [part for part in (self.network, self.auxiliary_head, self.adversary) if part is not None]

    def pretraining_step(self) -> PretrainingStep:
        """Step of stage 1, which moves the fusion network by an Adam of its own."""
        return PretrainingStep(self.network, adam(list(self.network.fusion.parameters()), self.recipe.leader.rate),
                               weights=self.recipe.pretraining, adversary=self.adversary,
                               discriminator_optimiser=self.discriminator_optimiser)

    def bilevel_step(self, loss: Callable[[object, object], Tensor], *,
                     loss_at_one_resolution: Callable[[Tensor, Tensor], Tensor], scaler: torch.amp.GradScaler | None = None,
                     autocast: Callable[[], object] = nullcontext) -> BilevelStep:
        """Step of stage 2 of a recipe that segments; see :class:`BilevelStep`."""
        auxiliary = None if self.auxiliary_head is None else AuxiliaryLoss(self.auxiliary_head, loss_at_one_resolution)
        return BilevelStep(self.network, loss, leader=self.leader, follower=self.follower, settings=self.recipe.bilevel,
                           losses=self.recipe.losses, adversary=self.adversary,
                           discriminator_optimiser=self.discriminator_optimiser,
                           auxiliary=auxiliary, scaler=scaler, autocast=autocast)

    def fusion_step(self, *, scaler: torch.amp.GradScaler | None = None,
                    autocast: Callable[[], object] = nullcontext) -> FusionStep:
        """Step of stage 2 where there is nothing to segment; see :class:`FusionStep`."""
        return FusionStep(self.network, self.leader.optimiser, weights=self.recipe.losses, adversary=self.adversary,
                          discriminator_optimiser=self.discriminator_optimiser, scaler=scaler, autocast=autocast)


def build_levels(network: FuseThenSegment, *, classes: int, recipe: Recipe) -> Levels:
    """Levels around ``network``, on its device: Adam for leader and discriminators, the recipe's optimiser for the follower.

    Args:
        network: Leader and follower.
        classes: Outputs of the follower.
        recipe: First learning rates, and the rest of what the steps are made of.
    """
    fusion, device = network.fusion, next(network.parameters()).device
    # Counted memory is not to be taken.
    with device if device.type == "meta" else nullcontext():
        head = AuxiliaryHead(CONVOLUTIONS[fusion.axes], fusion.decoded_features, classes=classes) if fusion.has_features else None
    head = head if head is None else head.to(device)
    adversary = (fusion.adversary() or OnePerModality(network.modalities, axes=fusion.axes)).to(device)
    leading = [*fusion.taught_parameters(), *(head.parameters() if head is not None else ())]
    following = list(network.segmentation.parameters())
    return Levels(network, recipe, head, adversary, leader=Level(leading, adam(leading, recipe.leader.rate)),
                  follower=Level(following, follower_optimiser(following, recipe.follower)),
                  discriminator_optimiser=adam(list(adversary.parameters()), recipe.leader.rate))


def follower_optimiser(parameters: list[nn.Parameter], by: Follower) -> torch.optim.Optimizer:
    """What moves a follower."""
    fused = fused_on(parameters)
    if by.optimiser == "adamw":
        return on_any_device(torch.optim.AdamW(parameters, by.rate, weight_decay=by.weight_decay, fused=fused))
    return on_any_device(torch.optim.SGD(parameters, by.rate, momentum=by.momentum, nesterov=by.nesterov,
                                         weight_decay=by.weight_decay, fused=fused))


def adam(parameters: list[nn.Parameter], rate: float) -> torch.optim.Optimizer:
    """What moves leaders and discriminators."""
    return on_any_device(torch.optim.Adam(parameters, rate, fused=fused_on(parameters)))


def fused_on(parameters: Sequence[Tensor]) -> bool | None:
    """Whether one kernel moves all parameters: on CUDA. None leaves it to PyTorch, which then moves them one by one on a CPU.

    Both ways are equal to rounding. A CPU's default stays what it was, bit for bit.
    """
    return True if parameters[0].device.type == "cuda" else None


def on_any_device(optimiser: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The same, which takes up states of a training on another device without that one's kernels."""
    def with_own_kernels(own: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        kernels = own.param_groups[0]["fused"]
        return {**state, "param_groups": [{**group, "fused": kernels} for group in state["param_groups"]]}

    optimiser.register_load_state_dict_pre_hook(with_own_kernels)
    return optimiser

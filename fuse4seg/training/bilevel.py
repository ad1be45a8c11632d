"""One bi-level step: the leader learns what the follower needs, the follower learns to segment what it sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fuse4seg.losses.adversarial import discriminator_loss
from fuse4seg.losses.fusion import FusionLossWeights, fusion_loss
from fuse4seg.networks.fuse_then_segment import FuseThenSegment, Seen
from fuse4seg.training.auxiliary import AuxiliaryLoss
from fuse4seg.training.hypergradients import DEFAULT_DAMPING, ESTIMATORS, NEEDS_LOWER_LEADER_GRAPH, Hypergradient

Targets = Tensor | list[Tensor]
#: nnU-Net's bound on the norm of a gradient; here of each level's.
MAX_NORM = 12.0


class Level(NamedTuple):
    """Parameters of one level and what moves them."""

    parameters: list[nn.Parameter]
    optimiser: torch.optim.Optimizer


@dataclass(frozen=True)
class BilevelSettings:
    """What a bi-level step is made of.

    Attributes:
        hypergradient: Name of the estimator (ESTIMATORS).
        fusion_weight: lambda of Eq. 6, the fusion losses' part in the leader's objective, at least 0.
        losses: Weight of each fusion loss.
        damping: Of the Gauss-Newton ratio.
        auxiliary_weight: Of the auxiliary head's loss in the leader's objective; 0 leaves the head out.
    """

    hypergradient: str = "joint"
    fusion_weight: float = 0.1
    losses: FusionLossWeights = field(default_factory=FusionLossWeights)
    damping: float = DEFAULT_DAMPING
    auxiliary_weight: float = 0.5


def half(batch: Tensor, targets: Targets, *, offset: int) -> tuple[Tensor, Targets]:
    """Every other sample from ``offset`` (0 or 1) on.

    Interleaved, because nnU-Net puts the samples that surely hold foreground at the end of a batch.
    """
    chosen = slice(offset, None, 2)
    return batch[chosen], [target[chosen] for target in targets] if isinstance(targets, list) else targets[chosen]


class BilevelStep:
    """Applies bi-level steps to a model.

    Args:
        model: Leader and follower.
        segmentation_loss: nnU-Net's loss on logits and targets (Eq. 14).
        leader, follower: The two levels.
        discriminators: One per modality, and what moves them; None without adversarial loss.
        auxiliary: Loss of the auxiliary head, whose parameters are among the leader's; None without a head.
        settings: Estimator and weights.
        scaler: Gradient scaler of mixed precision; None in full precision.
        autocast: Makes the context of the forward passes.

    Source: method.md, "Our reading" and "Two stages".
    """

    def __init__(self, model: FuseThenSegment, segmentation_loss: Callable[[object, object], Tensor], *, leader: Level,
                 follower: Level, discriminators: nn.ModuleList | None = None,
                 discriminator_optimiser: torch.optim.Optimizer | None = None,
                 auxiliary: AuxiliaryLoss | None = None, settings: BilevelSettings | None = None,
                 scaler: torch.amp.GradScaler | None = None, autocast: Callable[[], object] = nullcontext) -> None:
        self.model, self.segmentation_loss = model, segmentation_loss
        self.leader, self.follower = leader, follower
        self.settings = settings or BilevelSettings()
        self.estimate = ESTIMATORS[self.settings.hypergradient]
        self.discriminators = discriminators if self.settings.losses.adversarial else None
        self.discriminator_optimiser = discriminator_optimiser
        self.auxiliary = auxiliary if self.settings.auxiliary_weight else None
        self.scaler, self.autocast = scaler, autocast

    def __call__(self, batch: Tensor, targets: Targets) -> dict[str, float]:
        """Move leader, follower and discriminators once.

        Args:
            batch: Normalised input (B, C, *S), B at least 2: the two levels need disjoint halves.
            targets: Labels as nnU-Net's loss takes them.

        Returns:
            Both levels' losses, each fusion loss, the auxiliary head's, and the ratio r where the estimator has one.
        """
        with self.autocast():
            seen, objective, report = self._upper(*half(batch, targets, offset=1))
            report["lower"] = self._lower(*half(batch, targets, offset=0))
        hypergradient = self._hypergradient(objective, report["lower"])
        self._move(hypergradient)
        if hypergradient.ratio is not None:
            report["ratio"] = hypergradient.ratio
        if self.discriminators is not None:
            report["discriminator"] = self._move_discriminators(seen)
        return {name: float(value.detach()) for name, value in report.items()}

    def _upper(self, batch: Tensor, targets: Targets) -> tuple[Seen, Tensor, dict[str, Tensor]]:
        """The leader's objective F on the upper half, and what it is made of."""
        seen = self.model.fuse(batch)
        task = self.segmentation_loss(self.model.segment(seen), targets)
        logits = None
        if self.discriminators is not None:
            logits = [discriminator(seen.fused.image) for discriminator in self.discriminators]
        fusion, parts = fusion_loss(seen.fused.image, seen.sources, low=seen.fused.low, high=seen.fused.high,
                                    logits=logits, weights=self.settings.losses)
        objective = task + self.settings.fusion_weight * fusion
        report = {"upper": task, "fusion": fusion, **parts}
        if self.auxiliary is not None:
            report["auxiliary"] = self.auxiliary(seen.fused.decoded, targets)
            objective = objective + self.settings.auxiliary_weight * report["auxiliary"]
        return seen, objective, report

    def _lower(self, batch: Tensor, targets: Targets) -> Tensor:
        """Segmentation loss of the lower half; the leader's graph is kept only where the estimator asks for it."""
        needed = self.settings.hypergradient in NEEDS_LOWER_LEADER_GRAPH
        with nullcontext() if needed else torch.no_grad():
            seen = self.model.fuse(batch)
        return self.segmentation_loss(self.model.segment(seen), targets)

    def _hypergradient(self, upper: Tensor, lower: Tensor) -> Hypergradient:
        """Gradients, scaled by the gradient scaler where there is one; the damping is scaled with them."""
        scale = self.scaler.get_scale() if self.scaler is not None else 1.0
        return self.estimate(upper * scale, lower * scale, leader=self.leader.parameters,
                             follower=self.follower.parameters, damping=self.settings.damping * scale**2)

    def _move(self, hypergradient: Hypergradient) -> None:
        """One optimiser step of both levels.

        The follower uses both halves: each gives an estimate of the same lower gradient, and both are at hand.
        """
        both = [(lower + upper) / 2 for lower, upper in zip(hypergradient.lower, hypergradient.upper, strict=True)]
        for level, gradients in ((self.leader, hypergradient.leader), (self.follower, both)):
            self._apply(level, gradients)
        if self.scaler is not None:
            self.scaler.update()

    def _apply(self, level: Level, gradients: Sequence[Tensor]) -> None:
        for parameter, gradient in zip(level.parameters, gradients, strict=True):
            parameter.grad = gradient
        if self.scaler is not None:
            # The scaler counts a step as scaled only after it has scaled something; it has not seen our losses.
            self.scaler.scale(gradients[0].new_zeros(()))
            self.scaler.unscale_(level.optimiser)
        torch.nn.utils.clip_grad_norm_(level.parameters, MAX_NORM)
        if self.scaler is not None:
            self.scaler.step(level.optimiser)
        else:
            level.optimiser.step()
        level.optimiser.zero_grad(set_to_none=True)

    def _move_discriminators(self, seen: Seen) -> Tensor:
        """Teach each discriminator to tell its modality from the fused image."""
        return move_discriminators(self.discriminators, self.discriminator_optimiser, sources=seen.sources,
                                   fakes=[seen.fused.image.detach()] * len(self.discriminators))


def move_discriminators(discriminators: nn.ModuleList, optimiser: torch.optim.Optimizer, *, sources: Tensor,
                        fakes: Sequence[Tensor]) -> Tensor:
    """One step of the discriminators (Eq. 10, their side), in full precision.

    Args:
        discriminators: One per modality.
        optimiser: Of all of them.
        sources: Real modalities in [0, 1], shape (B, N, *S).
        fakes: For each modality what imitates it, in [0, 1], shape (B, 1, *S), without a graph.

    Returns:
        The loss before the step.
    """
    real = [discriminator(sources[:, index:index + 1].float()) for index, discriminator in enumerate(discriminators)]
    fake = [discriminator(image.float()) for discriminator, image in zip(discriminators, fakes, strict=True)]
    loss = discriminator_loss(real, fake)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()
    return loss.detach()

"""One bi-level step: the leader learns what the follower needs, the follower learns to segment what it sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from fuse4seg.colour import luma
from fuse4seg.losses.fusion import fusion_loss
from fuse4seg.networks.fuse_then_segment import FuseThenSegment, Seen, mirrored
from fuse4seg.networks.leader import Adversary
from fuse4seg.networks.samples import samples_of
from fuse4seg.ranks import averaged, mean_report
from fuse4seg.recipes.recipe import Bilevel, Losses
from fuse4seg.steps.adversary import teach
from fuse4seg.steps.hypergradients import DETACHED, ESTIMATORS, NEEDS_HALVES, Hypergradient
from fuse4seg.steps.viewing import as_viewed

Targets = Tensor | list[Tensor]
#: nnU-Net's bound on the norm of a gradient; here of each level's.
MAX_NORM = 12.0


class Level(NamedTuple):
    """Parameters of one level and what moves them."""

    parameters: list[nn.Parameter]
    optimiser: torch.optim.Optimizer


class Samples(NamedTuple):
    """The samples of one level; attributes as :meth:`BilevelStep.__call__` takes them."""

    batch: Tensor
    targets: Targets
    present: Tensor | None = None
    flips: Tensor | None = None
    viewing: Tensor | None = None

    @property
    def seen_targets(self) -> Targets:
        """The labels as the follower sees them: mirrored with its input."""
        if self.flips is None:
            return self.targets
        if isinstance(self.targets, list):
            return [mirrored(target, self.flips) for target in self.targets]
        return mirrored(self.targets, self.flips)


def half(whole: Any, *, offset: int) -> Any:
    """Every other sample from ``offset`` (0 or 1) on, of a tensor, or of lists, dictionaries and (named) tuples of them.

    Interleaved, because nnU-Net puts the samples that surely hold foreground at the end of a batch. What is none of these, None
    say, stays as it is.
    """
    return samples_of(whole, slice(offset, None, 2))


def labels_at(size: Sequence[int], targets: Tensor | list[Tensor]) -> Tensor:
    """Labels (B, C, *size): the deep supervision target of that size, or the finest one thinned out to it.

    Args:
        size: Spatial size.
        targets: Labels (B, C, *S), or a list of them, finest first.
    """
    known = targets if isinstance(targets, list) else [targets]
    fitting = [target for target in known if tuple(target.shape[2:]) == tuple(size)]
    return fitting[0] if fitting else functional.interpolate(known[0].float(), size=list(size), mode="nearest")


class AuxiliaryLoss:
    """What the bi-level step adds to the leader's objective.

    Args:
        head: The auxiliary head.
        segmentation_loss: nnU-Net's loss for one resolution.
    """

    def __init__(self, head: nn.Module, segmentation_loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.head, self.segmentation_loss = head, segmentation_loss

    def __call__(self, decoded: Tensor, targets: Tensor | list[Tensor]) -> Tensor:
        """Scalar loss of the head on the leader's features (B, c, *t)."""
        logits = self.head(decoded)
        return self.segmentation_loss(logits, labels_at(logits.shape[2:], targets))


class BilevelStep:
    """Applies bi-level steps to a model.

    Args:
        model: Leader and follower.
        segmentation_loss: nnU-Net's loss on logits and targets (Eq. 14).
        leader, follower: The two levels; the follower's parameters are those of ``model.segmentation``, in their order.
        adversary: The leader's discriminators; None without adversarial loss.
        discriminator_optimiser: Moves them.
        auxiliary: Loss of the auxiliary head, whose parameters are among the leader's; None without a head.
        settings: Estimator and weights of the objectives.
        losses: Weight of each fusion loss.
        scaler: Gradient scaler of mixed precision; None in full precision.
        autocast: Makes the context of the forward passes.

    Source: method.md, "The bi-level step" and "Two stages".
    """

    def __init__(self, model: FuseThenSegment, segmentation_loss: Callable[[object, object], Tensor], *, leader: Level,
                 follower: Level, settings: Bilevel, losses: Losses, adversary: Adversary | None = None,
                 discriminator_optimiser: torch.optim.Optimizer | None = None, auxiliary: AuxiliaryLoss | None = None,
                 scaler: torch.amp.GradScaler | None = None, autocast: Callable[[], object] = nullcontext) -> None:
        self.model, self.segmentation_loss = model, segmentation_loss
        self.leader, self.follower = leader, follower
        self.follower_names = [name for name, _ in model.segmentation.named_parameters()]
        self.settings, self.losses = settings, losses
        self.estimate = ESTIMATORS[self.settings.hypergradient]
        self.adversary = adversary if losses.adversarial else None
        self.discriminator_optimiser = discriminator_optimiser
        task_teaches_leader = self.settings.hypergradient not in DETACHED
        self.auxiliary = auxiliary if self.settings.auxiliary_weight and task_teaches_leader else None
        self.scaler, self.autocast = scaler, autocast

    def __call__(self, batch: Tensor, targets: Targets, present: Tensor | None = None, flips: Tensor | None = None,
                 viewing: Tensor | None = None) -> dict[str, float]:
        """Move leader, follower and discriminators once.

        Args:
            batch: Normalised input (B, C, *S), B at least 2 for estimators whose levels need disjoint halves (NEEDS_HALVES).
            targets: Labels as nnU-Net's loss takes them.
            present: True where a sample has a modality, bool of shape (B, N), one at least in each sample; None for all.
            flips: True where the follower sees a sample's fused image mirrored, bool of shape (B, axes); None mirrors nothing.
            viewing: How much the fused image is changed, as :func:`as_viewed` takes it, shape (B, 5); None changes nothing.

        Returns:
            Segmentation loss of the upper level, and of the lower where it has samples of its own; each fusion loss, the
            auxiliary head's, and the ratio r where the estimator has one.
        """
        return mean_report(self.move(batch, targets, present, flips, viewing))

    def move(self, batch: Tensor, targets: Targets, present: Tensor | None = None, flips: Tensor | None = None,
             viewing: Tensor | None = None) -> dict[str, Tensor]:
        """The same with the losses left where they are, as scalars: nothing waits for a device."""
        whole = Samples(batch, targets, present, flips, viewing)
        apart = self.settings.hypergradient in NEEDS_HALVES

        def level(of: Any, offset: int) -> Any:
            return half(of, offset=offset) if apart else of

        above, below = level(whole, 1), level(whole, 0)
        with self.autocast():
            seen = self.model.fuse(batch, present=present)
            shown = seen.fused.image if viewing is None else as_viewed(seen.fused.image, viewing)
            seen = level(seen, 1)
            own, report = self._own_objective(seen, above.targets)
        # The levels meet in the image alone: what the leader's parameters do to both objectives follows from one pass back.
        image = shown.detach().requires_grad_()
        scale = self.scaler.get_scale() if self.scaler is not None else 1.0

        def upper(parameters: Sequence[Tensor]) -> Tensor:
            task = self._task(level(image, 1), above, parameters)
            report.setdefault("upper", task.detach())
            return task * scale

        def lower(parameters: Sequence[Tensor]) -> Tensor:
            task = self._task(level(image, 0), below, parameters)
            report.setdefault("lower", task.detach())
            return task * scale

        hypergradient = self.estimate(upper, lower, leader=[image], follower=self.follower.parameters,
                                      damping=self.settings.damping * scale**2, average=averaged)
        self._move(averaged(self._through_leader(shown, hypergradient.leader[0], own * scale)), hypergradient)
        if hypergradient.ratio is not None:
            report["ratio"] = hypergradient.ratio
        if self.adversary is not None:
            report["discriminator"] = teach_adversary(self.adversary, self.discriminator_optimiser, seen)
        return {name: value.detach() for name, value in report.items()}

    def _through_leader(self, shown: Tensor, of_image: Tensor, own: Tensor) -> Sequence[Tensor]:
        """Gradient of the leader's parameters, from that of the image it shows the follower and from its own objective."""
        # Without any loss of its own the leader's objective is a constant; the image, of a leader that makes none.
        outputs, gradients = ([own], [torch.ones_like(own)]) if own.requires_grad else ([], [])
        if self.settings.hypergradient not in DETACHED and shown.requires_grad:
            outputs, gradients = [shown, *outputs], [of_image, *gradients]
        if not outputs:
            return [torch.zeros_like(parameter) for parameter in self.leader.parameters]
        return torch.autograd.grad(outputs, self.leader.parameters, gradients, allow_unused=True, materialize_grads=True)

    def _own_objective(self, seen: Seen, targets: Targets) -> tuple[Tensor, dict[str, Tensor]]:
        """What of the leader's objective F does not depend on the follower, and its parts."""
        fusion, parts = fusion_loss_of(self.model, seen, self.adversary, weights=self.losses, targets=targets)
        objective, report = self.settings.fusion_weight * fusion, {"fusion": fusion, **parts}
        if self.auxiliary is not None:
            report["auxiliary"] = self.auxiliary(seen.fused.decoded, targets)
            objective = objective + self.settings.auxiliary_weight * report["auxiliary"]
        return objective, report

    def _task(self, image: Tensor, samples: Samples, parameters: Sequence[Tensor]) -> Tensor:
        """Segmentation loss of the follower with these parameters."""
        with self.autocast():
            weights = dict(zip(self.follower_names, parameters, strict=True))
            extra = samples.batch[:, self.model.modalities:]
            logits = self.model.segment(image, extra, weights=weights, flips=samples.flips)
            return self.segmentation_loss(logits, samples.seen_targets)

    def _move(self, of_leader: Sequence[Tensor], hypergradient: Hypergradient) -> None:
        """One optimiser step of both levels.

        Where there are two halves the follower uses both: each gives an estimate of the same lower gradient.
        """
        lower, upper = hypergradient.lower, hypergradient.upper
        both = upper if lower is upper else [(first + second) / 2 for first, second in zip(lower, upper, strict=True)]
        for level, gradients in ((self.leader, of_leader), (self.follower, both)):
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


def fusion_loss_of(model: FuseThenSegment, seen: Seen, adversary: Adversary | None, *, weights: Losses,
                   targets: Targets | None = None) -> tuple[Tensor, dict[str, Tensor]]:
    """Fusion loss of what the model saw, and its parts; without discriminators, without theirs.

    Where there are labels, (B, L, *S), background alone is to be grey; else all of the image.
    """
    parts = {}
    if weights.own:
        own = model.fusion.losses(seen.fused, seen.sources, seen.present)
        parts["own"] = sum(own.values(), start=seen.sources.new_zeros(()))
    if adversary is not None:
        parts["adversarial"] = adversary.generator_loss(luma(seen.fused.image), seen.sources, seen.present)
    tissue = seen.inside if targets is None else seen.inside * background_of(targets)
    streams = (seen.fused.low, seen.fused.high) if model.fusion.takes_apart else None
    return fusion_loss(seen.fused.image, seen.sources, streams=streams, given=parts, weights=weights, tissue=tissue,
                       present=seen.present)


def background_of(targets: Targets) -> Tensor:
    """Where labels or regions (B, L, *S), a list of them finest first, hold nothing, bool of shape (B, 1, *S)."""
    finest = targets[0] if isinstance(targets, list) else targets
    return (finest == 0).all(dim=1, keepdim=True)


def teach_adversary(adversary: Adversary, optimiser: torch.optim.Optimizer, seen: Seen) -> Tensor:
    """Teach the discriminators to tell the modalities from the fused image; returns the loss before the step."""
    return teach(optimiser, adversary.discriminator_loss(luma(seen.fused.image).detach(), seen.sources, seen.present))

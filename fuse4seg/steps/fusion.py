"""One step without labels: the leader fuses for the eye alone, and nothing is segmented."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from fuse4seg.networks.fuse_then_segment import FuseThenSegment
from fuse4seg.networks.leader import Adversary
from fuse4seg.ranks import average_gradients, mean_report
from fuse4seg.recipes.recipe import Losses
from fuse4seg.steps.bilevel import MAX_NORM, fusion_loss_of, teach_adversary


class FusionStep:
    r"""Applies steps of the leader's objective without the task.

    .. math:: \min_{\omega_f} L^f(\Phi(x, y; \omega_f))

    The follower and the auxiliary head, which have nothing to learn from, stay as they are.

    Args:
        model: Its ``fusion`` is trained.
        optimiser: Moves the leader.
        adversary: The leader's discriminators; None without adversarial loss.
        discriminator_optimiser: Moves them.
        weights: Of the fusion losses.
        scaler: Gradient scaler of mixed precision; None in full precision.
        autocast: Makes the context of the forward passes.

    Source: paper Eq. 6 without its first term, so that lambda has nothing to weigh against.
    """

    def __init__(self, model: FuseThenSegment, optimiser: torch.optim.Optimizer, *, weights: Losses,
                 adversary: Adversary | None = None, discriminator_optimiser: torch.optim.Optimizer | None = None,
                 scaler: torch.amp.GradScaler | None = None,
                 autocast: Callable[[], AbstractContextManager[object]] = nullcontext) -> None:
        self.model, self.optimiser = model, optimiser
        self.weights = weights
        self.adversary = adversary if self.weights.adversarial else None
        self.discriminator_optimiser = discriminator_optimiser
        self.scaler, self.autocast = scaler, autocast

    def __call__(self, batch: Tensor, present: Tensor | None = None) -> dict[str, float]:
        """Move leader and discriminators once.

        Args:
            batch: Normalised input (B, C, *S).
            present: True where a sample has a modality, bool of shape (B, N), one at least in each sample; None for all.

        Returns:
            The fusion loss and each of its parts.
        """
        return mean_report(self.move(batch, present))

    def move(self, batch: Tensor, present: Tensor | None = None) -> dict[str, Tensor]:
        """The same with the losses left where they are, as scalars: nothing waits for a device."""
        with self.autocast():
            seen = self.model.fuse(batch, present=present)
            loss, parts = fusion_loss_of(self.model, seen, self.adversary, weights=self.weights)
        self._move(loss)
        report = {"fusion": loss, **parts}
        if self.adversary is not None:
            report["discriminator"] = teach_adversary(self.adversary, self.discriminator_optimiser, seen)
        return {name: value.detach() for name, value in report.items()}

    @torch.no_grad()
    def score(self, batch: Tensor, present: Tensor | None = None) -> float:
        """Fusion loss, arguments as above, without the adversarial part, whose measure, the discriminators, moves along."""
        with self.autocast():
            loss, _ = fusion_loss_of(self.model, self.model.fuse(batch, present=present), None, weights=self.weights)
        return float(loss)

    def _move(self, loss: Tensor) -> None:
        self.optimiser.zero_grad(set_to_none=True)
        scaled = loss if self.scaler is None else self.scaler.scale(loss)
        scaled.backward()
        moved = [parameter for group in self.optimiser.param_groups for parameter in group["params"]]
        average_gradients(moved)
        if self.scaler is not None:
            self.scaler.unscale_(self.optimiser)
        torch.nn.utils.clip_grad_norm_(moved, MAX_NORM)
        if self.scaler is None:
            self.optimiser.step()
        else:
            self.scaler.step(self.optimiser)
            self.scaler.update()
        self.optimiser.zero_grad(set_to_none=True)

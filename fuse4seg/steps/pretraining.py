"""Stage 1: encoder and decoder learn to take every modality apart and to put it together again."""

from __future__ import annotations

import torch
from torch import Tensor

from fuse4seg.losses.decomposition import decomposition_loss
from fuse4seg.losses.ssim import content_loss
from fuse4seg.networks.fuse_then_segment import FuseThenSegment
from fuse4seg.networks.leader import Adversary
from fuse4seg.ranks import average_gradients, mean_report
from fuse4seg.recipes.recipe import Pretraining
from fuse4seg.steps.adversary import OnePerModality, teach
from fuse4seg.steps.bilevel import MAX_NORM


class PretrainingStep:
    r"""Applies stage 1 steps to a model's leader.

    .. math:: L^{Enc} = \lambda_{adv} L_{adv} + \sigma L_{corr} + (1 - \sigma) L_{content}

    or, where the recipe says so, by the leader's own losses.

    Args:
        model: Its ``fusion`` is trained, the rest is left alone.
        optimiser: Moves the leader.
        adversary: One discriminator per modality, where these are the paper's.
        discriminator_optimiser: Moves them.
        weights: Of the parts.

    Source: paper Eq. 9 to 12.
    """

    def __init__(self, model: FuseThenSegment, optimiser: torch.optim.Optimizer, *, weights: Pretraining,
                 adversary: Adversary, discriminator_optimiser: torch.optim.Optimizer) -> None:
        self.model, self.optimiser = model, optimiser
        self.adversary, self.discriminator_optimiser = adversary, discriminator_optimiser
        self.weights = weights

    def __call__(self, batch: Tensor, present: Tensor | None = None) -> dict[str, float]:
        """Move leader and discriminators once; returns each loss.

        Args:
            batch: Normalised input (B, C, *S).
            present: True where a sample has a modality, bool of shape (B, N), one at least in each sample; None for all.
        """
        return mean_report(self.move(batch, present))

    def move(self, batch: Tensor, present: Tensor | None = None) -> dict[str, Tensor]:
        """The same with the losses left where they are, as scalars: nothing waits for a device."""
        sources, _, present = self.model.sources(batch, present)
        parts = (self._own if self.weights.own else self._the_paper_s)(sources, present)
        return {name: value.detach() for name, value in parts.items()}

    def _own(self, sources: Tensor, present: Tensor | None) -> dict[str, Tensor]:
        parts = self.model.fusion.pretraining_losses(sources, present)
        total = sum(parts.values())
        self._move(total)
        return {"total": total, **parts}

    def _the_paper_s(self, sources: Tensor, present: Tensor | None) -> dict[str, Tensor]:
        images, low, high = self.model.fusion.reconstruct(sources)
        parts = {"content": content_loss(images, sources, present=present),
                 "decomposition": decomposition_loss(low, high, present=present)}
        sigma = self.weights.decomposition
        total = sigma * parts["decomposition"] + (1 - sigma) * parts["content"]
        fakes = images.split(1, dim=1)
        adversary = self.adversary if self.weights.adversarial and isinstance(self.adversary, OnePerModality) else None
        if adversary is not None:
            parts["adversarial"] = adversary.against_fakes(fakes, present)
            total = total + self.weights.adversarial * parts["adversarial"]
        self._move(total)
        if adversary is not None:
            loss = adversary.loss_of_fakes([fake.detach() for fake in fakes], sources, present)
            parts["discriminator"] = teach(self.discriminator_optimiser, loss)
        return {"total": total, **parts}

    def _move(self, total: Tensor) -> None:
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()
        average_gradients(list(self.model.fusion.parameters()))
        torch.nn.utils.clip_grad_norm_(self.model.fusion.parameters(), MAX_NORM)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)

"""Stage 1: encoder and decoder learn to take every modality apart and to put it together again."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fuse4seg.losses.adversarial import generator_loss
from fuse4seg.losses.decomposition import decomposition_loss
from fuse4seg.losses.ssim import content_loss
from fuse4seg.networks.fuse_then_segment import FuseThenSegment
from fuse4seg.recipes.recipe import Pretraining
from fuse4seg.steps.bilevel import MAX_NORM, move_discriminators


class PretrainingStep:
    r"""Applies stage 1 steps to a model's leader.

    .. math:: L^{Enc} = \lambda_{adv} L_{adv} + \sigma L_{corr} + (1 - \sigma) L_{content}

    Args:
        model: Its ``fusion`` is trained, the rest is left alone.
        optimiser: Moves the leader.
        discriminators: One per modality.
        discriminator_optimiser: Moves them.
        weights: Of the parts.

    Source: paper Eq. 9 to 12.
    """

    def __init__(self, model: FuseThenSegment, optimiser: torch.optim.Optimizer, *, weights: Pretraining,
                 discriminators: nn.ModuleList, discriminator_optimiser: torch.optim.Optimizer) -> None:
        self.model, self.optimiser = model, optimiser
        self.discriminators, self.discriminator_optimiser = discriminators, discriminator_optimiser
        self.weights = weights

    def __call__(self, batch: Tensor) -> dict[str, float]:
        """Move leader and discriminators once on normalised input (B, C, *S); returns each loss."""
        return {name: float(value) for name, value in self.move(batch).items()}

    def move(self, batch: Tensor) -> dict[str, Tensor]:
        """The same with the losses left where they are, as scalars: nothing waits for a device."""
        sources, _ = self.model.window(batch[:, :self.model.modalities])
        images, low, high = self.model.fusion.reconstruct(sources)
        parts = {"content": content_loss(images, sources), "decomposition": decomposition_loss(low, high)}
        sigma = self.weights.decomposition
        total = sigma * parts["decomposition"] + (1 - sigma) * parts["content"]
        if self.weights.adversarial:
            parts["adversarial"] = generator_loss([discriminator(images[:, index:index + 1])
                                                   for index, discriminator in enumerate(self.discriminators)])
            total = total + self.weights.adversarial * parts["adversarial"]
        self._move(total)
        if self.weights.adversarial:
            fakes = [images[:, index:index + 1].detach() for index in range(images.shape[1])]
            parts["discriminator"] = move_discriminators(self.discriminators, self.discriminator_optimiser,
                                                         sources=sources, fakes=fakes)
        return {name: value.detach() for name, value in {"total": total, **parts}.items()}

    def _move(self, total: Tensor) -> None:
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()
        torch.nn.utils.clip_grad_norm_(self.model.fusion.parameters(), MAX_NORM)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)

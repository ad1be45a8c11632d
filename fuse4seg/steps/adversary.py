"""The paper's discriminators: one for each modality, which tells its images from the fused one, or from a reconstruction."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fuse4seg.losses.adversarial import discriminator_loss, generator_loss
from fuse4seg.networks.discriminator import Discriminator
from fuse4seg.networks.leader import Adversary
from fuse4seg.ranks import average_gradients, largest


class OnePerModality(Adversary):
    """Each discriminator sees, real and imitated, the samples that have its modality (Eq. 10).

    Args:
        modalities: How many.
        axes: 2 or 3.
    """

    def __init__(self, modalities: int, *, axes: int) -> None:
        super().__init__()
        self.each = nn.ModuleList(Discriminator(axes) for _ in range(modalities))

    def generator_loss(self, fused: Tensor, sources: Tensor, present: Tensor | None = None) -> Tensor:
        """What the leader minimises; see :class:`Adversary`."""
        return self.against_fakes([fused] * len(self.each), present)

    def against_fakes(self, fakes: Sequence[Tensor], present: Tensor | None = None) -> Tensor:
        """What makes of images, each in [0, 1] and of shape (B, 1, *S), such that look like one modality each."""
        return generator_loss([self.each[index](_samples_with(fakes[index], present, index)) for index in self._there(present)])

    def discriminator_loss(self, fused: Tensor, sources: Tensor, present: Tensor | None = None) -> Tensor:
        """What the discriminators minimise, in full precision; see :class:`Adversary`."""
        return self.loss_of_fakes([fused] * len(self.each), sources, present)

    def loss_of_fakes(self, fakes: Sequence[Tensor], sources: Tensor, present: Tensor | None = None) -> Tensor:
        """The same where each modality is imitated by an image of its own, of shape (B, 1, *S)."""
        there = self._there(present)
        real = [self.each[index](_samples_with(sources[:, index:index + 1], present, index).float()) for index in there]
        fake = [self.each[index](_samples_with(fakes[index], present, index).float()) for index in there]
        return discriminator_loss(real, fake)

    def _there(self, present: Tensor | None) -> list[int]:
        """Modalities that any sample of any rank has; the discriminator of one that none has stays as it is."""
        if present is None:
            return list(range(len(self.each)))
        return [index for index, there in enumerate(largest(*present.any(dim=0).tolist())) if there]


def _samples_with(images: Tensor, present: Tensor | None, modality: int) -> Tensor:
    """Those of the images (B, ...) whose sample has the modality."""
    return images if present is None else images[present[:, modality]]


def teach(optimiser: torch.optim.Optimizer, loss: Tensor) -> Tensor:
    """One step of discriminators by their loss, which is returned as it was before."""
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    average_gradients([moved for group in optimiser.param_groups for moved in group["params"]])
    optimiser.step()
    # Else they would lie beside the next step's activations.
    optimiser.zero_grad(set_to_none=True)
    return loss.detach()

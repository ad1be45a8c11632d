"""DDcGAN (Ma et al., IEEE TIP 2020): intensities of one image, texture of the other, a discriminator for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from fuse4seg.losses.filters import mean_of_present
from fuse4seg.networks.dense import DenseGenerator
from fuse4seg.networks.discriminator import ImageDiscriminator
from fuse4seg.networks.leader import Adversary
from fuse4seg.networks.pair_leader import PAIR, Fold, PairLeader, PairSettings
from fuse4seg.networks.presence import reference_apart
from fuse4seg.recipes.recipe import entry


@dataclass(frozen=True)
class Settings(PairSettings):
    """Entries of DDcGAN."""

    texture: float = entry("weight of the reference's texture beside the other's intensities (the paper's eta)",
                           least=0)


class DualDiscriminators(Adversary):
    r"""One takes the reference for real, one the other modalities.

    .. math:: L_G = E[\log(1 - D_v(\theta))] + E[\log(1 - D_i(\theta))], \quad
        L_D = -E[\log D(M)] - E[\log(1 - D(\theta))]

    Half of a tanh and a half, by which the published ones give a probability, is the sigmoid of twice what enters it.

    Args:
        conv_op: ``torch.nn.Conv2d`` or ``torch.nn.Conv3d``.
        reference: Index of the reference (visible, MRI) among the modalities.

    Source: the paper's section III-B and III-C; each side learns once per step, where the paper lets the weaker one go
    on until its loss has reached a bound.
    """

    def __init__(self, conv_op: type[nn.Module], *, reference: int) -> None:
        super().__init__()
        self.index = reference
        self.visible, self.infrared = (ImageDiscriminator(conv_op, activation=nn.ReLU, batch_norm=True)
                                       for _ in range(2))

    def generator_loss(self, fused: Tensor, sources: Tensor, present: Tensor | None = None) -> Tensor:
        """See :class:`Adversary`; at most 0."""
        return -sum(mean_of_present(softplus(2 * discriminator(fused).expand(real.shape[:2])), there)
                    for discriminator, real, there in self._games(sources, present))

    def discriminator_loss(self, fused: Tensor, sources: Tensor, present: Tensor | None = None) -> Tensor:
        """See :class:`Adversary`; log 16 where both are undecided."""
        return sum(mean_of_present(softplus(-2 * discriminator(real)) + softplus(2 * discriminator(fused)), there)
                   for discriminator, real, there in self._games(sources, present))

    def _games(self, sources: Tensor, present: Tensor | None,
               ) -> list[tuple[ImageDiscriminator, Tensor, Tensor | None]]:
        """Each discriminator with what it takes for real, shape (B, n, *S), and where that is present, (B, n)."""
        there = (None, None) if present is None else reference_apart(present, self.index)
        return list(zip((self.visible, self.infrared), reference_apart(sources, self.index), there, strict=True))


class DDcGAN(PairLeader):
    """DDcGAN for images of one resolution, reimplemented, from scratch.

    A densely connected generator against two discriminators. The reference plays the visible image's part, whose
    texture is kept (as MRI does in the paper beside PET), the other the infrared's, whose intensities are kept.

    Args:
        modalities, conv_op, strides, reference, colours, folding: As :class:`PairLeader` takes them.
        texture: See :class:`Settings`.

    Deviations: no deconvolutions at the entrance, as the images have one resolution here. Discriminators take any size
    (:class:`ImageDiscriminator`).

    Source: Ma et al., DDcGAN: A dual-discriminator conditional generative adversarial network for multi-resolution
    image fusion, IEEE TIP 2020. Widths are those of the authors' public code for images of one resolution.

    Example:
        >>> leader = DDcGAN(2, conv_op=nn.Conv2d, strides=[1, 2, 2])
        >>> leader(torch.rand(1, 2, 20, 30)).image.shape
        torch.Size([1, 1, 20, 30])
    """

    smallest = 2  # for reflection

    def __init__(self, modalities: int, *, conv_op: type[nn.Module], strides: Sequence[Sequence[int] | int],
                 reference: int = 0, colours: int = 1, folding: bool = False, texture: float = 1.2) -> None:
        super().__init__(modalities, conv_op=conv_op, strides=strides, reference=reference, colours=colours,
                         folding=folding)
        self.conv_op, self.texture = conv_op, texture
        self.generator = DenseGenerator(conv_op, sources=PAIR, growth=48, layers=4, narrowing=(240, 128, 64, 32),
                                        activation=nn.ReLU, batch_norm=True)

    def fuse_pair(self, first: Tensor, second: Tensor) -> tuple[Tensor, None]:
        """See :class:`PairLeader`."""
        return self.generator(torch.cat([first, second], dim=1)), None

    def pair_losses(self, fold: Fold) -> dict[str, Tensor]:
        r"""Distance to the intensities of the second image, and total variation of the difference to the first.

        .. math:: \frac{1}{|\Omega|} (\lVert \theta - M_2 \rVert_F^2 + \eta \lVert \theta - M_1 \rVert_{TV})

        The norms are sums in the paper. As means they keep their proportion at any patch size, and the adversarial loss
        gets a smaller weight instead (see the recipe).

        Source: the paper's content loss, section III-B, without its downsampling.
        """
        difference = fold.image - fold.first
        variation = sum(difference.diff(dim=axis).abs().sum() for axis in range(2, difference.ndim))
        return {"intensities": (fold.image - fold.second).square().mean(),
                "texture": self.texture * variation / difference.numel()}

    def adversary(self) -> DualDiscriminators:
        """See :class:`LeaderNetwork`."""
        return DualDiscriminators(self.conv_op, reference=self.reference)


LEADER = DDcGAN

"""TarDAL's fusion (Liu et al., CVPR 2022): what stands out in one image, and the other's detail around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from fuse4seg.losses.filters import gradient_magnitude, mean_of_present
from fuse4seg.losses.ssim import ssim_loss
from fuse4seg.networks.dense import DenseGenerator
from fuse4seg.networks.discriminator import ImageDiscriminator
from fuse4seg.networks.leader import Adversary
from fuse4seg.networks.pair_leader import PAIR, Fold, PairLeader, PairSettings
from fuse4seg.networks.presence import reference_apart
from fuse4seg.ranks import own_slice, world_size
from fuse4seg.recipes.recipe import entry

#: Grey levels of the histogram that saliency is measured by.
LEVELS = 256
#: A target is what stands out by more than this times the mean saliency (Achanta et al., CVPR 2009).
STANDS_OUT = 2.0
#: Weight and power of the penalty on the discriminators' slopes (k and p in the paper).
PENALTY, POWER = 2.0, 6
#: Keeps the shares of two images without any contrast finite.
EPSILON = 1e-6


@dataclass(frozen=True)
class Settings(PairSettings):
    """Entries of TarDAL."""

    pixel: float = entry("weight of the intensities beside the structure (the paper's alpha)", least=0)


class TargetAndDetail(Adversary):
    r"""One looks at the targets' intensities, one at the gradients around them, by the Wasserstein divergence.

    .. math:: L_G = -E[D_t(\theta \odot m)] - E[D_d(|\nabla\theta| \odot (1 - m))], \quad
        L_D = E[D(\mathrm{fused})] - E[D(\mathrm{real})] + k\, E[\lVert \nabla D \rVert^p]

    Real to the first are the other modalities' targets, to the second the gradients of the reference.

    Deviations: the mask m of the targets is what stands out (:func:`targets`), as the paper's comes from a saliency
    network that would have to be downloaded. The slope is measured between real and fused image at shares that are
    spread evenly over the batch and not drawn, so that a training that goes on after an interruption sees the same.
    Gradients are sums of absolute values.

    Args:
        conv_op: ``torch.nn.Conv2d`` or ``torch.nn.Conv3d``.
        reference: Index of the reference (visible, MRI) among the modalities.

    Source: the paper's section 3.2; the divergence is Wu et al., Wasserstein divergence for GANs, ECCV 2018.
    """

    def __init__(self, conv_op: type[nn.Module], *, reference: int) -> None:
        super().__init__()
        self.index = reference
        leaky = partial(nn.LeakyReLU, 0.2)
        self.target, self.detail = (ImageDiscriminator(conv_op, activation=leaky) for _ in range(2))

    def generator_loss(self, fused: Tensor, sources: Tensor, present: Tensor | None = None) -> Tensor:
        """See :class:`Adversary`."""
        return -sum(mean_of_present(discriminator(made), there)
                    for discriminator, _, made, there in self._games(fused, sources, present))

    def discriminator_loss(self, fused: Tensor, sources: Tensor, present: Tensor | None = None) -> Tensor:
        """See :class:`Adversary`."""
        return sum(mean_of_present(divergence(discriminator, real, made), there)
                   for discriminator, real, made, there in self._games(fused, sources, present))

    def _games(self, fused: Tensor, sources: Tensor, present: Tensor | None,
               ) -> list[tuple[ImageDiscriminator, Tensor, Tensor, Tensor | None]]:
        """Each discriminator, what is real to it and what is made, (B, n, *S), and where that is present, (B, n)."""
        reference, others = reference_apart(sources, self.index)
        masks = targets(others)
        around = 1 - masks.amax(dim=1, keepdim=True)
        there = (None, None) if present is None else reference_apart(present, self.index)
        return [(self.target, others * masks, fused * masks, there[1]),
                (self.detail, gradient_magnitude(reference) * around, gradient_magnitude(fused) * around, there[0])]


class TarDAL(PairLeader):
    """The fusion of TarDAL, reimplemented, from scratch.

    A densely connected generator against two discriminators. The reference plays the visible image's part, whose detail
    is kept, the other the infrared's, whose targets are kept.

    Args:
        modalities, conv_op, strides, reference, colours, folding: As :class:`PairLeader` takes them.
        pixel: See :class:`Settings`.

    Deviations: the published detection, which the paper trains with the fusion in two levels, is left to the follower.
    tanh is brought to [0, 1]. Discriminators take any size (:class:`ImageDiscriminator`).

    Source: Liu et al., Target-aware dual adversarial learning and a multi-scenario multi-modality benchmark to fuse
    infrared and visible for object detection, CVPR 2022. Widths, batch normalisation and zero padding are those of the
    authors' public code.

    Example:
        >>> leader = TarDAL(2, conv_op=nn.Conv2d, strides=[1, 2, 2])
        >>> leader(torch.rand(1, 2, 20, 30)).image.shape
        torch.Size([1, 1, 20, 30])
    """

    def __init__(self, modalities: int, *, conv_op: type[nn.Module], strides: Sequence[Sequence[int] | int],
                 reference: int = 0, colours: int = 1, folding: bool = False, pixel: float = 20.0) -> None:
        super().__init__(modalities, conv_op=conv_op, strides=strides, reference=reference, colours=colours,
                         folding=folding)
        self.conv_op, self.pixel = conv_op, pixel
        self.generator = DenseGenerator(conv_op, sources=PAIR, growth=32, layers=3, narrowing=(128, 64, 32),
                                        activation=nn.ReLU, batch_norm=True, padding_mode="zeros")

    def fuse_pair(self, first: Tensor, second: Tensor) -> tuple[Tensor, None]:
        """See :class:`PairLeader`."""
        return self.generator(torch.cat([first, second], dim=1)), None

    def pair_losses(self, fold: Fold) -> dict[str, Tensor]:
        r"""Structure of both images, and of each place's intensities more of that which stands out more.

        .. math:: \sum_i \frac{1 - \mathrm{SSIM}(\theta, M_i)}{2} + \frac{\alpha}{|\Omega|} \sum_i
            \lVert \omega_i \odot (\theta - M_i) \rVert_1, \quad \omega_i = \frac{S_i}{S_1 + S_2}

        The paper has a minus in the denominator, by which the shares would not lie in [0, 1], and the weight inside the
        norm at the source alone, by which the image would be darker than either; the authors' public code weighs the
        whole distance.

        Source: the paper's generator losses, section 3.2.
        """
        sources = torch.cat([fold.first, fold.second], dim=1)
        shares = saliency(sources) + EPSILON
        shares = shares / shares.sum(dim=1, keepdim=True)
        pixel = (shares * (fold.image - sources).abs()).sum(dim=1).mean()
        return {"structure": ssim_loss(fold.image, sources), "pixel": self.pixel * pixel}

    def adversary(self) -> TargetAndDetail:
        """See :class:`LeaderNetwork`."""
        return TargetAndDetail(self.conv_op, reference=self.reference)


@torch.no_grad()
def saliency(images: Tensor) -> Tensor:
    r"""How far each voxel's grey level is from those of all others of its image.

    .. math:: S(k) = \sum_{i=0}^{255} H(i)\, |M(k) - i|

    Args:
        images: In [0, 1], shape (B, N, *S).

    Returns:
        Same shape, in [0, 1]: H is relative, and levels are taken over 255.

    Source: the paper's saliency degree weight, section 3.2 (histogram-based contrast, Zhai and Shah, ACM Multimedia
    2006).

    Example:
        >>> saliency(torch.tensor([0.0, 0.0, 0.0, 1.0]).view(1, 1, 2, 2)).flatten()
        tensor([0.2500, 0.2500, 0.2500, 0.7500])
    """
    levels = (images.flatten(2) * (LEVELS - 1)).round().long()
    counts = torch.zeros(*levels.shape[:2], LEVELS, device=images.device)
    counts.scatter_add_(2, levels, torch.ones_like(levels, dtype=counts.dtype))
    grey = torch.arange(LEVELS, device=images.device) / (LEVELS - 1)
    # No product of matrices, which mixed precision would round.
    of_level = ((counts / levels.shape[2]).unsqueeze(2) * (grey - grey.unsqueeze(1)).abs()).sum(dim=3)
    return of_level.gather(2, levels).view(images.shape)


@torch.no_grad()
def targets(images: Tensor) -> Tensor:
    """1 where an image (B, N, *S) stands out by more than twice its mean saliency, else 0; same shape."""
    contrast = saliency(images)
    mean = contrast.flatten(2).mean(dim=2).view(*images.shape[:2], *[1] * (images.ndim - 2))
    return (contrast > STANDS_OUT * mean).to(images.dtype)


def divergence(discriminator: nn.Module, real: Tensor, made: Tensor) -> Tensor:
    r"""Penalised difference of what a discriminator says of images (B, N, *S), shape (B, N).

    .. math:: D(\mathrm{made}) - D(\mathrm{real}) + k \lVert \nabla D \rVert^p, \quad k = 2, \quad p = 6

    The slope is measured between the two.
    """
    cases = len(real) * world_size()
    share = (torch.arange(cases, device=real.device) + 0.5) / cases
    share = share[own_slice(cases).start:own_slice(cases).stop].view(-1, *[1] * (real.ndim - 1))
    between = (share * real + (1 - share) * made).detach().requires_grad_()
    gradient, = torch.autograd.grad(discriminator(between).sum(), between, create_graph=True)
    # A power of the square, as the norm itself has no slope at 0.
    penalty = gradient.flatten(2).square().sum(dim=2) ** (POWER // 2)
    return discriminator(made) - discriminator(real) + PENALTY * penalty


LEADER = TarDAL

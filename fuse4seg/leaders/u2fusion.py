"""U2Fusion (Xu et al., IEEE TPAMI 2022): the more a source has to tell, the more the image is held to look like it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from fuse4seg.losses.ssim import ssim_of_each
from fuse4seg.networks.dense import DenseGenerator
from fuse4seg.networks.pair_leader import PAIR, Fold, PairLeader, PairSettings
from fuse4seg.recipes.recipe import entry

#: Weight of the intensities beside the structure (alpha in the paper).
INTENSITIES = 20.0
#: Of the pyramid that information is measured on; as many as VGG-16 has stages.
SCALES = 5
AVERAGES = {2: functional.avg_pool2d, 3: functional.avg_pool3d}


@dataclass(frozen=True)
class Settings(PairSettings):
    """Entries of U2Fusion."""

    evenness: float = entry("what the sources' information is divided by before the softmax that weighs them: the "
                            "larger, the more evenly (the paper's c)", least=1e-6)


class U2Fusion(PairLeader):
    """U2Fusion, reimplemented, from scratch.

    A densely connected network, taught by similarity to both sources, each weighed by how much it has to tell.

    Args:
        modalities, conv_op, strides, reference, colours, folding: As :class:`PairLeader` takes them.
        evenness: See :class:`Settings`.

    Deviations: information is measured on the image's own scales (:func:`information`) and not on the features of a
    VGG-16, which would have to be downloaded. Elastic weight consolidation keeps what one network learned from an
    earlier kind of images; here a network sees one kind, so there is nothing to consolidate.

    Source: Xu et al., U2Fusion: A unified unsupervised image fusion network, IEEE TPAMI 2022 (online 2020). Ten layers,
    leaky slope .2 and tanh are the paper's; the widths are those of the authors' public code.

    Example:
        >>> leader = U2Fusion(2, conv_op=nn.Conv2d, strides=[1, 2, 2])
        >>> leader(torch.rand(1, 2, 20, 30)).image.shape
        torch.Size([1, 1, 20, 30])
    """

    smallest = 2  # for reflection

    def __init__(self, modalities: int, *, conv_op: type[nn.Module], strides: Sequence[Sequence[int] | int],
                 reference: int = 0, colours: int = 1, folding: bool = False, evenness: float = 0.01) -> None:
        super().__init__(modalities, conv_op=conv_op, strides=strides, reference=reference, colours=colours,
                         folding=folding)
        self.evenness = evenness
        self.generator = DenseGenerator(conv_op, sources=PAIR, growth=44, layers=5, narrowing=(128, 64, 32),
                                        activation=partial(nn.LeakyReLU, 0.2))

    def fuse_pair(self, first: Tensor, second: Tensor) -> tuple[Tensor, None]:
        """See :class:`PairLeader`."""
        return self.generator(torch.cat([first, second], dim=1)), None

    def pair_losses(self, fold: Fold) -> dict[str, Tensor]:
        r"""Dissimilarity in structure and intensity, weighed by information.

        .. math:: \omega = \mathrm{softmax}(g_1 / c, g_2 / c), \quad
            L = E[\sum_i \omega_i (1 - \mathrm{SSIM}(\theta, M_i))] + 20\, E[\sum_i \omega_i \mathrm{MSE}(\theta, M_i)]

        Source: the paper's section 3.2 to 3.4, without the term that consolidates weights.
        """
        sources = torch.cat([fold.first, fold.second], dim=1)
        weights = (information(sources) / self.evenness).softmax(dim=1)
        structure = 1 - ssim_of_each(fold.image, sources)
        intensities = (fold.image - sources).square().flatten(2).mean(dim=2)
        return {"structure": (weights * structure).sum(dim=1).mean(),
                "intensities": INTENSITIES * (weights * intensities).sum(dim=1).mean()}


@torch.no_grad()
def information(images: Tensor) -> Tensor:
    r"""How much each image has to tell: mean squared Laplacian, averaged over its scales.

    .. math:: g = \frac{1}{5} \sum_{j=0}^{4} \frac{1}{|\Omega_j|} \lVert \nabla^2 M_j \rVert_F^2

    M_0 is the image, and each next one has the means of two voxels along each axis that still has two. The Laplacian is
    the mean of a voxel's neighbours, diagonal ones included, less the voxel; the border is repeated.

    Args:
        images: In [0, 1], shape (B, N, *S).

    Returns:
        One value per image, at least 0, shape (B, N).

    Example:
        >>> information(torch.full((1, 2, 8, 8), 0.5))
        tensor([[0., 0.]])
    """
    average = AVERAGES[images.ndim - 2]
    gathered = torch.zeros(images.shape[:2], dtype=images.dtype, device=images.device)
    for _ in range(SCALES):
        window = 3 ** (images.ndim - 2)
        padded = functional.pad(images, [1] * 2 * (images.ndim - 2), mode="replicate")
        laplacian = (average(padded, 3, stride=1) - images) * window / (window - 1)
        gathered += laplacian.square().flatten(2).mean(dim=2) / SCALES
        images = average(images, [min(2, extent) for extent in images.shape[2:]])
    return gathered


LEADER = U2Fusion

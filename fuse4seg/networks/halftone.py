"""Halftone: each modality has voxels of its own in the fused image, by which it can be told from the others again."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

from fuse4seg.networks.demosaic import PASSES, PASSES_DESCREENED, demosaic, descreened, separate, tiled
from fuse4seg.networks.presence import fill_absent


class Halftone(nn.Module):
    r"""A raster that is always there, over whatever else the image shows.

    .. math:: g_i = h \, o_i + (1 - h) \, b_i

    for shares b of a voxel, :math:`o_i` 1 where the voxel is the modality's own and 0 elsewhere. Where modalities differ, each
    shows through at voxels of its own, as colours do in print, so that one channel can carry several; where they agree, nothing
    is seen of it. Nothing is learned: what two modalities' voxels differ by is h times what the modalities differ by, whatever
    the shares are, as long as they change slowly from voxel to voxel.

    Args:
        modalities: Their number N.
        block: Voxels of a block along each axis, among which the modalities are shared out.
        strength: h, above 0 and below 1.
        descreen: Rid the rest of the image of what would be read as a difference between modalities. Where a block has fewer
            voxels than there are modalities, so that none is read without the others, it stays as it is.

    Raises:
        ValueError: ``strength`` is not in between.

    Source: method.md, "Our reading" (what one channel must carry).
    """

    def __init__(self, modalities: int, *, block: Sequence[int], strength: float, descreen: bool = False) -> None:
        super().__init__()
        if not 0 < strength < 1:
            raise ValueError(f"halftone must be a strength above 0 and below 1, got {strength}")
        self.block, self.strength, self.descreen = tuple(block), strength, descreen
        own = torch.zeros(modalities, prod(block))
        for modality, place in owners(modalities, prod(block)):
            own[modality, place] = 1
        # Owners of one place have equal parts of it.
        self.register_buffer("own", own / own.sum(dim=0))

    @property
    def owned(self) -> Tensor:
        """Which voxels of a block belong to which modality, bool of shape (N, *block)."""
        return (self.own > 0).unflatten(1, self.block)

    @property
    def separates(self) -> bool:
        """Whether every modality has a voxel of a block to itself."""
        modalities, places = self.own.shape
        return modalities <= places

    @property
    def passes(self) -> int:
        """How often the triangle is applied to read it."""
        return PASSES_DESCREENED if self.descreen else PASSES

    def forward(self, shares: Tensor, *, present: Tensor | None = None) -> Tensor:
        """The shares of every voxel, its owner's part added; what an absent owner would have is left to the others.

        Args:
            shares: Of N sources and, behind them, of K other images, sum 1 over dimension 1, shape (B, N + K, *S), S a multiple
                of the block.
            present: True where a case has a modality, bool of shape (B, N); None for all.

        Returns:
            The same for the halftone, shape (B, N + K, *S).
        """
        own = self._parts(shares, present)
        rest = (1 - own.sum(dim=1, keepdim=True)) * shares
        modalities = own.shape[1]
        return torch.cat([own + rest[:, :modalities], rest[:, modalities:]], dim=1)

    def over(self, image: Tensor, sources: Tensor, *, present: Tensor | None = None) -> Tensor:
        """The halftone over an image.

        Args:
            image: In [0, 1], shape (B, 1, *S), S a multiple of the block.
            sources: In [0, 1], shape (B, N, *S).
            present: True where a case has a modality, bool of shape (B, N); None for all.

        Returns:
            In [0, 1], shape (B, 1, *S). Without ``descreen``, the mixture by the shares of :meth:`forward`, if ``image`` is the
            mixture by those that it takes.
        """
        own = self._parts(sources, present)
        if self.descreen and self.separates:
            image = descreened(image, self.owned, passes=self.passes).clamp(0, 1)
        return (own * sources).sum(dim=1, keepdim=True) + (1 - own.sum(dim=1, keepdim=True)) * image

    def _parts(self, like: Tensor, present: Tensor | None) -> Tensor:
        """Part of each voxel that is its owner's, shape (B, N, *S); none for absent ones."""
        own = tiled(self.own.unflatten(1, self.block), like).expand(len(like), -1, *like.shape[2:])
        return self.strength * fill_absent(own, present)

    def read(self, image: Tensor, *, brighter: Tensor, sum_share: float = 0.0) -> Tensor:
        """What the image shows of each modality.

        Args:
            image: With the halftone, shape (B, 1, *S); a block begins at its first voxel.
            brighter: How strongly the shares prefer the brighter source.
            sum_share: Part of the rest that is a pair's sum.

        Returns:
            Shape (B, N, *S). Where a block has fewer voxels than there are modalities: of each modality what its voxels show, the
            others included.
        """
        if not self.separates:
            return demosaic(image, self.owned)
        return separate(image, self.owned, strength=self.strength, brighter=brighter, sum_share=sum_share,
                        passes=self.passes)


def owners(modalities: int, places: int) -> list[tuple[int, int]]:
    """Which modality owns which place of a block: as evenly as can be, pairs of (modality, place).

    Two modalities share a block like the colours of a chequerboard. Where there are fewer places than modalities, a place has
    several owners.
    """
    if modalities > places:
        return [(modality, modality % places) for modality in range(modalities)]
    # Each round of places begins one further, by the Thue-Morse sequence, or modalities would lie in stripes.
    return [((place + (place // modalities).bit_count()) % modalities, place) for place in range(places)]

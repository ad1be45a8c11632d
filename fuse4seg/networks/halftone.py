"""Halftone: each modality has voxels of its own in the fused image, by which it can be told from the others again."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

from fuse4seg.networks.demosaic import demosaic, separate, tiled
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

    Raises:
        ValueError: ``strength`` is not in between.

    Source: method.md, "Our reading" (what one channel must carry).
    """

    def __init__(self, modalities: int, *, block: Sequence[int], strength: float) -> None:
        super().__init__()
        if not 0 < strength < 1:
            raise ValueError(f"halftone must be a strength above 0 and below 1, got {strength}")
        self.block, self.strength = tuple(block), strength
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

    def forward(self, shares: Tensor, *, present: Tensor | None = None) -> Tensor:
        """The shares of every voxel, its owner's part added; what an absent owner would have is left to the others.

        Args:
            shares: Of N sources and, behind them, of K other images, sum 1 over dimension 1, shape (B, N + K, *S), S a multiple
                of the block.
            present: True where a case has a modality, bool of shape (B, N); None for all.

        Returns:
            The same for the halftone, shape (B, N + K, *S).
        """
        own = tiled(self.own.unflatten(1, self.block), shares).expand(len(shares), -1, *shares.shape[2:])
        own = self.strength * fill_absent(own, present)
        rest = (1 - own.sum(dim=1, keepdim=True)) * shares
        modalities = own.shape[1]
        return torch.cat([own + rest[:, :modalities], rest[:, modalities:]], dim=1)

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
        return separate(image, self.owned, strength=self.strength, brighter=brighter, sum_share=sum_share)


def owners(modalities: int, places: int) -> list[tuple[int, int]]:
    """Which modality owns which place of a block: as evenly as can be, pairs of (modality, place).

    Two modalities share a block like the colours of a chequerboard. Where there are fewer places than modalities, a place has
    several owners.
    """
    if modalities > places:
        return [(modality, modality % places) for modality in range(modalities)]
    # Each round of places begins one further, by the Thue-Morse sequence, or modalities would lie in stripes.
    return [((place + (place // modalities).bit_count()) % modalities, place) for place in range(places)]

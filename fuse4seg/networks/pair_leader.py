"""Leaders for two modalities, as most fusion networks are published; more are folded in, one after the other."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from fuse4seg.errors import RecipeError
from fuse4seg.networks.leader import Fused, LeaderNetwork
from fuse4seg.networks.presence import checked_presence, fill_absent
from fuse4seg.networks.samples import samples_of
from fuse4seg.recipes.recipe import Leader, entry

#: What a leader as published can take.
PAIR = 2


@dataclass(frozen=True)
class PairSettings(Leader):
    """Entries of a leader for two modalities.

    Raises:
        RecipeError: The fused image is to have colours.
    """

    folding: bool = entry("more than two modalities: fuse the reference with the first other, the result with the next, and so "
                          "on, by the same weights; false refuses them, as published for two", planned=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fused_image != "grey":
            raise RecipeError("leader.fused_image", f"{self.network} gives one channel. Set it to grey.")


class Fold(NamedTuple):
    """One fusion of two images.

    Attributes:
        first, second: What was fused, in [0, 1], shape (B, 1, *S); the first is the reference, or of a later fold the image
            fused before.
        image: In [0, 1], shape (B, 1, *S).
        own: Whatever else the losses look at.
        both: Samples that have both, bool of shape (B,); None for all.
    """

    first: Tensor
    second: Tensor
    image: Tensor
    own: Any
    both: Tensor | None = None


class PairLeader(LeaderNetwork):
    """A fusion network for two modalities.

    Its subclass says how two images are fused, and by what that is taught; folding is here. Where a paper treats its two unlike,
    the reference stands for the visible image, which is the sharper one, and the other for the infrared one.

    Args:
        modalities, conv_op, strides, reference, colours: As every leader takes them; colours is 1.
        folding: Take more than two modalities.

    Attributes:
        multiple, smallest: Extents that the network takes are multiples of the one, and at least the other. Others are made up
            by repeating the border, which the fused image loses again; the losses see it.

    Raises:
        ValueError: There are other than two modalities, and no folding; one, of which there is nothing to fuse; or colours are
            asked for.
    """

    multiple: int = 1
    smallest: int = 1

    def __init__(self, modalities: int, *, conv_op: type[nn.Module], strides: Sequence[Sequence[int] | int], reference: int = 0,
                 colours: int = 1, folding: bool = False) -> None:
        super().__init__(modalities, conv_op=conv_op, strides=strides, reference=reference, colours=colours)
        if colours != 1:
            raise ValueError(f"{type(self).__name__} gives one channel, not {colours}")
        if modalities != PAIR and not (folding and modalities > PAIR):
            raise ValueError(f"{type(self).__name__} fuses two modalities, not {modalities}")

    @abstractmethod
    def fuse_pair(self, first: Tensor, second: Tensor) -> tuple[Tensor, Any]:
        """Fuse two images in [0, 1], shape (B, 1, *S), S as :meth:`pad` makes it.

        Returns:
            The fused image in [0, 1], shape (B, 1, *S), and what :meth:`pair_losses` wants beside it, or None.
        """

    @abstractmethod
    def pair_losses(self, fold: Fold) -> dict[str, Tensor]:
        """What teaches the fusion of two images as published, scalars that are weighed already."""

    def forward(self, sources: Tensor, *, present: Tensor | None = None, want_maps: bool = False) -> Fused:
        """Fuse; see :class:`LeaderNetwork`. A case that lacks one of two images keeps the other."""
        present = checked_presence(present, sources)
        padded = self.pad(fill_absent(sources, present))
        image = padded[:, self.reference:self.reference + 1]
        there = None if present is None else present[:, self.reference]
        folds = []
        for modality in (index for index in range(self.modalities) if index != self.reference):
            second = padded[:, modality:modality + 1]
            made, own = self.fuse_pair(image, second)
            both = None
            if present is not None:
                has = present[:, modality]
                both = there & has
                made = torch.where(_per_sample(both, made), made, torch.where(_per_sample(there, made), image, second))
                there = there | has
            folds.append(Fold(image, second, made, own, both))
            image = made
        return Fused(image[(..., *(slice(extent) for extent in sources.shape[2:]))], own=tuple(folds))

    def pad(self, images: Tensor) -> Tensor:
        """Images (B, C, *S) of extents that the network takes: their border is repeated."""
        wanted = [max(self.smallest, extent) for extent in images.shape[2:]]
        missing = [extent + -extent % self.multiple - has for extent, has in zip(wanted, images.shape[2:], strict=True)]
        padding = [amount for width in reversed(missing) for amount in (0, width)]
        return functional.pad(images, padding, mode="replicate") if any(missing) else images

    def losses(self, fused: Fused, sources: Tensor, present: Tensor | None = None) -> dict[str, Tensor]:
        """Mean over the folds, each of the samples that have both its images; nothing where none has."""
        folds = [fold if fold.both is None else samples_of(fold, fold.both) for fold in fused.own]
        each = [self.pair_losses(fold) for fold in folds if len(fold.image)]
        return {name: sum(parts[name] for parts in each) / len(each) for name in each[0]} if each else {}


def _per_sample(of: Tensor, like: Tensor) -> Tensor:
    return of.view(-1, *[1] * (like.ndim - 1))

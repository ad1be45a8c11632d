"""Leaders for two modalities, as most fusion networks are published; more are folded in, one after the other."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fuse4seg.errors import RecipeError
from fuse4seg.networks.leader import Fused, LeaderNetwork
from fuse4seg.networks.presence import checked_presence, fill_absent
from fuse4seg.recipes.recipe import Leader, entry

#: What a leader as published can take.
PAIR = 2


@dataclass(frozen=True)
class PairSettings(Leader):
    """Entries of a leader for two modalities.

    Raises:
        RecipeError: The fused image is to have colours.
    """

    folding: bool = entry("more than two modalities: the first two are fused, then the result with the third, and so on, by the "
                          "same weights; false refuses them, as the method is published for two", planned=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fused_image != "grey":
            raise RecipeError("leader.fused_image", f"{self.network} gives one channel. Set it to grey.")


class Fold(NamedTuple):
    """One fusion of two images.

    Attributes:
        first, second: What was fused, in [0, 1], shape (B, 1, *S); the first of a later fold is an image fused before.
        image: In [0, 1], shape (B, 1, *S).
        own: Whatever else the losses look at.
    """

    first: Tensor
    second: Tensor
    image: Tensor
    own: Any


class PairLeader(LeaderNetwork):
    """A fusion network for two modalities.

    Its subclass says how two images are fused, and by what that is taught; folding is here.

    Args:
        modalities, conv_op, strides, reference, colours: As every leader takes them; colours is 1.
        folding: Take more than two modalities.

    Raises:
        ValueError: There are other than two modalities, and no folding; one, of which there is nothing to fuse; or colours are
            asked for.
    """

    def __init__(self, modalities: int, *, conv_op: type[nn.Module], strides: Sequence[Sequence[int] | int], reference: int = 0,
                 colours: int = 1, folding: bool = False) -> None:
        super().__init__(modalities, conv_op=conv_op, strides=strides, reference=reference, colours=colours)
        if colours != 1:
            raise ValueError(f"{type(self).__name__} gives one channel, not {colours}")
        if modalities != PAIR and not (folding and modalities > PAIR):
            raise ValueError(f"{type(self).__name__} fuses two modalities, not {modalities}")

    @abstractmethod
    def fuse_pair(self, first: Tensor, second: Tensor) -> tuple[Tensor, Any]:
        """Fuse two images in [0, 1], shape (B, 1, *S), S of any extents.

        Returns:
            The fused image in [0, 1], shape (B, 1, *S), and what :meth:`pair_losses` wants beside it, or None.
        """

    @abstractmethod
    def pair_losses(self, fold: Fold) -> dict[str, Tensor]:
        """What teaches the fusion of two images as published, scalars that are weighed already."""

    def forward(self, sources: Tensor, *, present: Tensor | None = None, want_maps: bool = False) -> Fused:
        """Fuse; see :class:`LeaderNetwork`. A case that lacks one of two images keeps the other."""
        present = checked_presence(present, sources)
        sources = fill_absent(sources, present)
        image, there = sources[:, :1], None if present is None else present[:, 0]
        folds = []
        for modality in range(1, self.modalities):
            second = sources[:, modality:modality + 1]
            made, own = self.fuse_pair(image, second)
            if present is not None:
                has = present[:, modality]
                made = torch.where(_per_sample(there & has, made), made, torch.where(_per_sample(there, made), image, second))
                there = there | has
            folds.append(Fold(image, second, made, own))
            image = made
        return Fused(image, own=tuple(folds))

    def losses(self, fused: Fused, sources: Tensor, present: Tensor | None = None) -> dict[str, Tensor]:
        """Mean over the folds."""
        each = [self.pair_losses(fold) for fold in fused.own]
        return {name: sum(parts[name] for parts in each) / len(each) for name in each[0]}


def _per_sample(of: Tensor, like: Tensor) -> Tensor:
    return of.view(-1, *[1] * (like.ndim - 1))

"""What every fusion network, the leader, offers to the rest."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from fuse4seg.networks.convolution import axes_of

#: Mean and spread, roughly, of a fused image in [0, 1]: the follower reads it in these units.
CENTRE, SPREAD = 0.3, 0.2


class Fused(NamedTuple):
    """What a fusion network gives.

    Attributes:
        image: Fused image in [0, 1], shape (B, C, *S), C 1 (grey) or 3 (red, green, blue).
        low, high: Low- and high-frequency features of every modality, shapes (B, N, C, *s) and (B, N, c, *t), of a leader that
            takes modalities apart.
        decoded: Features (B, c, *t) that an auxiliary head can segment, of a leader that has ``decoded_features``.
        attention: Where the reference looked in every other modality, shape (B, N - 1, *G), 0 for absent ones; None unless
            asked for, and where there is no cross-attention.
        own: Whatever else the leader's own losses look at; starts with the batch's axis wherever it holds a tensor.
    """

    image: Tensor
    low: Tensor | None = None
    high: Tensor | None = None
    decoded: Tensor | None = None
    attention: Tensor | None = None
    own: Any = None


class Adversary(nn.Module):
    """Discriminators of a leader, and the game that they play with it."""

    @abstractmethod
    def generator_loss(self, fused: Tensor, sources: Tensor, present: Tensor | None = None) -> Tensor:
        """What the leader minimises, a scalar.

        Args:
            fused: The image's luma in [0, 1], shape (B, 1, *S).
            sources: In [0, 1], shape (B, N, *S); 0 where absent.
            present: True where a case has a modality, bool of shape (B, N); None for all.
        """

    @abstractmethod
    def discriminator_loss(self, fused: Tensor, sources: Tensor, present: Tensor | None = None) -> Tensor:
        """What the discriminators minimise, a scalar; arguments as above, without a graph."""


class LeaderNetwork(nn.Module):
    """A fusion network.

    A leader is a file in fuse4seg/leaders: its network, a subclass of this under the name ``LEADER``, and its entries in a
    recipe, a subclass of :class:`~fuse4seg.recipes.recipe.Leader` under the name ``Settings``. The network's constructor takes
    the arguments below and, by name, the entries that ``Settings`` adds.

    Args:
        modalities: Number of source modalities, at least 1.
        conv_op: ``torch.nn.Conv2d`` or ``torch.nn.Conv3d``.
        strides: The U-Net's strides per stage and axis, the first of them 1: they know the image's anisotropy.
        reference: Index of the modality that asks in a cross-attention.
        colours: Channels of the fused image: 3 for colour, 1 for grey.

    Attributes:
        takes_apart: Whether it gives low and high frequencies of every modality (the decomposition loss).
        rebuilds: Whether it can :meth:`reconstruct` a modality from these (the paper's stage 1).
        reconstructs: Whether :meth:`pretraining_losses` has something to teach: a stage 1 of its own.
        has_features: Whether ``Fused.decoded`` is there for an auxiliary head.
        decoded_features: How many channels that has.
        fuses: Whether it makes an image; if not, that is the one modality itself, and stage 2 teaches it nothing.
    """

    takes_apart: bool = False
    rebuilds: bool = False
    reconstructs: bool = False
    has_features: bool = False
    decoded_features: int | None = None
    fuses: bool = True

    def __init__(self, modalities: int, *, conv_op: type[nn.Module], strides: Sequence[Sequence[int] | int], reference: int = 0,
                 colours: int = 1) -> None:
        super().__init__()
        if not 0 <= reference < modalities:
            raise ValueError(f"reference must lie in 0..{modalities - 1}, got {reference}")
        self.axes = axes_of(conv_op)
        self.modalities, self.reference, self.colours = modalities, reference, colours

    @abstractmethod
    def forward(self, sources: Tensor, *, present: Tensor | None = None, want_maps: bool = False) -> Fused:
        """Fuse.

        Args:
            sources: In [0, 1], shape (B, N, *S), S of any extents.
            present: True where a case has a modality, bool of shape (B, N), one at least in each case; None for all. Absent
                ones are left out of everything, whatever stands in their place.
            want_maps: Also give the attention maps.

        Raises:
            ValueError: ``present`` has another type or shape, or a case has no modality.
        """

    @property
    def attends(self) -> bool:
        """Whether there is a cross-attention to be shown."""
        return False

    @property
    def read_channels(self) -> int:
        """Channels of what the follower reads."""
        return self.colours

    def read(self, image: Tensor) -> Tensor:
        """What the follower reads of a fused image: the same about zero and of about unit spread.

        Args:
            image: In [0, 1], shape (B, C, *S), S of any extents.

        Returns:
            Shape (B, read_channels, *S).
        """
        return (image - CENTRE) / SPREAD

    def losses(self, fused: Fused, sources: Tensor, present: Tensor | None = None) -> dict[str, Tensor]:
        """What this leader is taught by as published, scalars that are weighed already; nothing where it has no own.

        Args:
            fused: Of :meth:`forward` on ``sources``.
            sources: In [0, 1], shape (B, N, *S); 0 where absent.
            present: True where a case has a modality, bool of shape (B, N); None for all.
        """
        return {}

    def reconstruct(self, sources: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruct every modality from its own features alone, of a leader that ``rebuilds``.

        Args:
            sources: In [0, 1], shape (B, N, *S).

        Returns:
            Reconstructions in [0, 1], shape (B, N, *S), and the features low and high of every modality.
        """
        raise NotImplementedError

    def pretraining_losses(self, sources: Tensor, present: Tensor | None = None) -> dict[str, Tensor]:
        """What stage 1 teaches as published, scalars that are weighed already; of a leader that ``reconstructs``.

        Args:
            sources: In [0, 1], shape (B, N, *S); 0 where absent.
            present: True where a case has a modality, bool of shape (B, N); None for all.
        """
        raise NotImplementedError

    def adversary(self) -> Adversary | None:
        """Discriminators of its own, new; None: the paper's, one for each modality."""
        return None

    def taught_parameters(self) -> list[nn.Parameter]:
        """What stage 2 moves; all, unless stage 1 alone teaches a part."""
        return list(self.parameters())

    def initialise(self) -> None:
        """Draw the weights that training starts from; PyTorch's own unless the method says otherwise."""

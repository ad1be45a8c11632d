"""The paper's encoder, pre-trained and frozen, in front of the follower: it reads an image that another method fused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fuse4seg.leaders import decoder
from fuse4seg.networks.convolution import LINEAR
from fuse4seg.networks.leader import Fused
from fuse4seg.networks.presence import checked_presence


@dataclass(frozen=True)
class Settings(decoder.Settings):
    """Entries of both streams.

    Raises:
        RecipeError: The image is to have colours.
    """


class EncoderLeader(decoder.DecoderLeader):
    """Encoder and decoder of stage 1 on one image. The image stays as it is; the follower reads the encoder's features of it.

    Stage 2 cannot reach the encoder: the image is no function of it, and its features are computed without a graph.

    Args:
        modalities, conv_op, strides, reference, colours: As every leader takes them; modalities and colours are 1.
        **streams: See :class:`~fuse4seg.networks.dual_stream.DualStreamLeader`.

    Source: paper, "Results of medical image segmentation", FILM+nnUnet-P. That the features stand in the image's place is our
    reading.

    Example:
        >>> leader = EncoderLeader(1, conv_op=nn.Conv2d, strides=[1, 2, 2], detail_features=16, base_features=32)
        >>> image = leader(torch.rand(1, 1, 20, 30)).image
        >>> leader.read(image).shape
        torch.Size([1, 48, 20, 30])
    """

    takes_apart = False
    has_features = False
    fuses = False

    def __init__(self, modalities: int, *, conv_op: type[nn.Module], strides: Sequence[Sequence[int] | int], reference: int = 0,
                 colours: int = 1, **streams: Any) -> None:
        if modalities != 1:
            raise ValueError(f"the encoder reads one image, not {modalities}")
        super().__init__(modalities, conv_op=conv_op, strides=strides, reference=reference, colours=colours, **streams)
        self.fuse_low = self.fuse_high = None

    def forward(self, sources: Tensor, *, present: Tensor | None = None, want_maps: bool = False) -> Fused:
        """The one image, as it is; see :class:`~fuse4seg.networks.leader.LeaderNetwork`."""
        checked_presence(present, sources)
        return Fused(sources)

    @property
    def read_channels(self) -> int:
        """Of both streams."""
        return self.base_features + self.detail_features

    @torch.no_grad()
    def read(self, image: Tensor) -> Tensor:
        """Features of low and of high frequencies side by side, brought to full size.

        Args:
            image: In [0, 1], shape (B, 1, *S).

        Returns:
            Shape (B, read_channels, *S), of about unit spread.
        """
        padded = self._pad(image)
        streams = [functional.interpolate(features.squeeze(1), size=padded.shape[2:], mode=LINEAR[self.axes])
                   for features in self.encoder(padded)]
        return torch.cat(streams, dim=1)[(..., *(slice(extent) for extent in image.shape[2:]))]


LEADER = EncoderLeader

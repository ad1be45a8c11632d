"""CDDFuse (Zhao et al., CVPR 2023): transformer blocks for what modalities share, invertible ones for what each has alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from fuse4seg.losses.decomposition import decomposition_loss
from fuse4seg.losses.ssim import ssim
from fuse4seg.losses.strongest_source import intensity_loss, texture_loss
from fuse4seg.networks.pair_leader import Fold, PairLeader, PairSettings
from fuse4seg.networks.restormer import RestormerBlock
from fuse4seg.recipes.recipe import entry

#: Channels at full resolution, heads, Restormer blocks of encoder and of decoder, and invertible blocks of the detail encoder.
FEATURES, HEADS, BLOCKS, COUPLINGS = 64, 8, 4, 3
#: Sobel's kernels as published add up to 8 times the slope that our gradient gives.
SOBEL = 8.0


@dataclass(frozen=True)
class Settings(PairSettings):
    """Weights of the losses; those of the reconstruction's squared error and of the fused image's intensities are 1."""

    similarity: float = entry("mu, of 1 - SSIM in each modality's reconstruction", least=0, planned=True)
    decomposition: float = entry("alpha 2 and 4, of the decomposition loss in both stages", least=0, planned=True)
    gradient: float = entry("alpha 3, of the fused image's gradients", least=0, planned=True)


class DetailCoupling(nn.Module):
    r"""Invertible block: the channels are mixed, and each half moves the other.

    .. math:: b' = b + \phi(a), \quad a' = a \odot e^{\rho(b')} + \eta(b')

    Args:
        conv_op: ``torch.nn.Conv2d`` or ``torch.nn.Conv3d``.
        channels: Channels in and out, even.

    Source: the paper's Eq. 5; the 1-wide mixing is the public code's.
    """

    def __init__(self, conv_op: type[nn.Module], channels: int) -> None:
        super().__init__()
        self.shuffle = conv_op(channels, channels, 1)
        self.shift, self.scale, self.offset = (_bottleneck(conv_op, channels // 2) for _ in range(3))

    def forward(self, features: Tensor) -> Tensor:
        """Same shape as ``features``, (B, C, *S)."""
        first, second = self.shuffle(features).chunk(2, dim=1)
        second = second + self.shift(first)
        return torch.cat([first * self.scale(second).exp() + self.offset(second), second], dim=1)


def _bottleneck(conv_op: type[nn.Module], channels: int) -> nn.Sequential:
    """MobileNetV2's bottleneck, which the paper takes for the mappings in a coupling; without norms, as in the public code."""
    hidden = 2 * channels
    return nn.Sequential(conv_op(channels, hidden, 1, bias=False), nn.ReLU6(inplace=True),
                         conv_op(hidden, hidden, 3, padding=1, padding_mode="reflect", groups=hidden, bias=False),
                         nn.ReLU6(inplace=True), conv_op(hidden, channels, 1, bias=False))


def _base_block(conv_op: type[nn.Module]) -> RestormerBlock:
    """Block of the base encoder and of base fusion; the widths that the published 1.19 M parameters come from."""
    return RestormerBlock(conv_op, FEATURES, heads=HEADS, hidden=FEATURES, attention_groups=1, gate_groups=FEATURES)


class Parted(NamedTuple):
    """Base and detail features, each (B, FEATURES, *S), or (B, N, FEATURES, *S) of several modalities."""

    base: Tensor
    detail: Tensor


class CDDFuse(PairLeader):
    r"""Correlation-driven dual-branch feature decomposition, reimplemented, from scratch.

    A shared encoder of Restormer blocks; a base encoder, global, and a detail encoder of invertible blocks, local; a fusion layer
    of the same kind behind the sum of each; a decoder of Restormer blocks. Stage 1 teaches encoders and decoder:

    .. math:: L^I = \sum_{X \in \{I, V\}} \lVert X - \hat X \rVert^2 + \mu (1 - \mathrm{SSIM}(X, \hat X))
        + \alpha_2 \frac{CC(D_I, D_V)^2}{CC(B_I, B_V) + 1.01}

    Stage 2 teaches all:

    .. math:: L^{II} = \lVert F - \max(I, V) \rVert_1 + \alpha_3 \lVert |\nabla F| - \max(|\nabla I|, |\nabla V|) \rVert_1
        + \alpha_4 \frac{CC(D_I, D_V)^2}{CC(B_I, B_V) + 1.01}

    Norms are means over the voxels; gradients are Sobel's, as the sum of both directions' magnitudes, not divided by 8.

    Where it leaves the paper: its base encoder is said to be a Lite Transformer's, but the published number of parameters is that
    of the public code, whose block attends from channel to channel; so does this one. The public code adds a source to
    the decoder's output and one gradient loss to stage 1, which the paper has not, and for medical images the source is left
    out there, too.

    Args:
        modalities, conv_op, strides, reference, colours, folding: As every leader for two modalities takes them.
        similarity, decomposition, gradient: As in :class:`Settings`.

    Source: Zhao et al., CDDFuse: correlation-driven dual-branch feature decomposition for multi-modality image fusion, CVPR 2023,
    sections 3.2 to 3.6, Eq. 1 to 14.
    """

    reconstructs = True
    smallest = 2  # for reflection

    def __init__(self, modalities: int, *, conv_op: type[nn.Module], strides: Sequence[Sequence[int] | int], reference: int = 0,
                 colours: int = 1, folding: bool = False, similarity: float = 5.0, decomposition: float = 2.0,
                 gradient: float = 10.0) -> None:
        super().__init__(modalities, conv_op=conv_op, strides=strides, reference=reference, colours=colours, folding=folding)
        self.similarity, self.decomposition, self.gradient = similarity, decomposition, gradient
        self.shared = nn.Sequential(conv_op(1, FEATURES, 3, padding=1, bias=False), *_restormer(conv_op))
        self.base = _base_block(conv_op)
        self.detail = nn.Sequential(*(DetailCoupling(conv_op, FEATURES) for _ in range(COUPLINGS)))
        self.fuse_base, self.fuse_detail = _base_block(conv_op), DetailCoupling(conv_op, FEATURES)
        self.decoder = nn.Sequential(
            conv_op(2 * FEATURES, FEATURES, 1, bias=False), *_restormer(conv_op),
            conv_op(FEATURES, FEATURES // 2, 3, padding=1, bias=False), nn.LeakyReLU(0.01, inplace=True),
            conv_op(FEATURES // 2, 1, 3, padding=1, bias=False), nn.Sigmoid())

    def encode(self, images: Tensor) -> Parted:
        """Take images (B, 1, *S) in [0, 1] apart."""
        shared = self.shared(images)
        return Parted(self.base(shared), self.detail(shared))

    def decode(self, parted: Parted) -> Tensor:
        """Image in [0, 1], shape (B, 1, *S)."""
        return self.decoder(torch.cat(parted, dim=1))

    def fuse_pair(self, first: Tensor, second: Tensor) -> tuple[Tensor, Parted]:
        """Fuse; see :class:`PairLeader`. Beside the image, each one's features, (B, 2, FEATURES, *S)."""
        both = _of_each(self.encode(torch.cat([first, second])), 2)
        base, detail = (part.sum(dim=1) for part in both)
        return self.decode(Parted(self.fuse_base(base), self.fuse_detail(detail))), both

    def pair_losses(self, fold: Fold) -> dict[str, Tensor]:
        """What stage 2 teaches."""
        sources = torch.cat([fold.first, fold.second], dim=1)
        return {"intensity": intensity_loss(fold.image, sources),
                "gradient": self.gradient * SOBEL * texture_loss(fold.image, sources),
                "decomposition": self.decomposition * decomposition_loss(*fold.own)}

    def pretraining_losses(self, sources: Tensor, present: Tensor | None = None) -> dict[str, Tensor]:
        """See :class:`LeaderNetwork`; of more than two modalities all pairs are correlated."""
        images = self.pad(sources).transpose(0, 1).flatten(0, 1).unsqueeze(1)
        parted = self.encode(images)
        painted = self.decode(parted)
        if present is not None:
            images, painted = (part[present.T.flatten()] for part in (images, painted))
        # Two modalities are published, each of weight 1: the mean over all of them counts twice.
        return {"pixel": 2 * mse_loss(painted, images), "ssim": 2 * self.similarity * (1 - ssim(painted, images)),
                "decomposition": self.decomposition * decomposition_loss(*_of_each(parted, self.modalities), present=present)}


def _of_each(parted: Parted, modalities: int) -> Parted:
    """Features (B, N, FEATURES, *S) of those of one modality's batch after the other's."""
    return Parted(*(part.unflatten(0, (modalities, -1)).transpose(0, 1) for part in parted))


def _restormer(conv_op: type[nn.Module]) -> list[nn.Module]:
    return [RestormerBlock(conv_op, FEATURES, heads=HEADS, hidden=2 * FEATURES) for _ in range(BLOCKS)]


LEADER = CDDFuse

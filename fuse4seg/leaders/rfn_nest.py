"""RFN-Nest (Li, Wu, Kittler, Information Fusion 2021): a nested auto-encoder with a residual fusion network at each scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import mse_loss

from fuse4seg.losses.ssim import ssim
from fuse4seg.networks.pair_leader import Fold, PairLeader, PairSettings
from fuse4seg.recipes.recipe import entry

#: Channels of the first layer, and of the features at each scale.
STEM, FEATURES = 16, (64, 112, 160, 208)
#: Weight of 1 - SSIM beside the squared error in stage 1 (the paper's lambda).
SIMILARITY = 100.0
#: Weight of each scale's features in stage 2, the finest first.
SCALES = (1.0, 10.0, 100.0, 1000.0)
#: The published weights go with grey levels of 0..255, and a squared error with their square.
LEVELS_SQUARED = 255.0 ** 2
#: Contrast of black and white, as painted, that is stretched at the most; that of a trained network is several times as strong.
FAINTEST = 1.0
POOLS = {2: functional.max_pool2d, 3: functional.max_pool3d}


@dataclass(frozen=True)
class Settings(PairSettings):
    """Weights of what teaches the residual fusion networks."""

    detail: float = entry("alpha, of 1 - SSIM to the reference", least=0, planned=True)
    reference_features: float = entry("w vi: how strongly the reference's features count in the fused ones", least=0.1,
                                      planned=True)
    other_features: float = entry("w ir: how strongly the other's do", least=0.1, planned=True)


class Painted(NamedTuple):
    """What the losses look at.

    Attributes:
        first, second, fused: Features at each scale, (B, c, *s).
        image: Stretched, but not clamped, shape (B, 1, *S).
    """

    first: list[Tensor]
    second: list[Tensor]
    fused: list[Tensor]
    image: Tensor


def _layer(conv_op: type[nn.Module], channels: int, features: int, width: int) -> nn.Sequential:
    convolution = conv_op(channels, features, width, padding=width // 2, padding_mode="reflect")
    return nn.Sequential(convolution, nn.ReLU(inplace=True))


def _block(conv_op: type[nn.Module], channels: int, features: int) -> nn.Sequential:
    """Block of encoder and decoder: 3-wide to half of the channels, then 1-wide."""
    return nn.Sequential(_layer(conv_op, channels, channels // 2, 3), _layer(conv_op, channels // 2, features, 1))


class ResidualFusion(nn.Module):
    """Residual fusion network: both features side by side through one layer, and what six more make of them is added.

    Args:
        conv_op: ``torch.nn.Conv2d`` or ``torch.nn.Conv3d``.
        channels: Of the features.

    Source: the paper's section 3.2, figure 3.
    """

    def __init__(self, conv_op: type[nn.Module], channels: int) -> None:
        super().__init__()
        self.rough = _layer(conv_op, 2 * channels, channels, 3)
        self.first, self.second = (_layer(conv_op, channels, channels, 3) for _ in range(2))
        self.fine = nn.Sequential(_layer(conv_op, 2 * channels, channels, 1), _layer(conv_op, channels, channels, 3),
                                  _layer(conv_op, channels, channels, 3))

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Fused features of the shape of each, (B, C, *s)."""
        beside = torch.cat([self.first(first), self.second(second)], dim=1)
        return self.rough(torch.cat([first, second], dim=1)) + self.fine(beside)


class NestDecoder(nn.Module):
    """Decoder with nest connections: every finer node sees all nodes before it at its scale, and the one below.

    Args:
        conv_op: ``torch.nn.Conv2d`` or ``torch.nn.Conv3d``.

    Source: the paper's section 3.1, figure 4.
    """

    def __init__(self, conv_op: type[nn.Module]) -> None:
        super().__init__()
        # Column by column: the first has a node at all scales but the coarsest, the last at the finest alone.
        self.columns = nn.ModuleList(
            nn.ModuleList(_block(conv_op, column * FEATURES[scale] + FEATURES[scale + 1], FEATURES[scale])
                          for scale in range(len(FEATURES) - column)) for column in range(1, len(FEATURES)))
        self.paint = conv_op(FEATURES[0], 1, 1)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Image (B, 1, *S) of features at each scale, the finest first."""
        nodes = [[feature] for feature in features]
        for column in self.columns:
            below = [found[-1] for found in nodes]
            for scale, block in enumerate(column):
                coarser = functional.interpolate(below[scale + 1], scale_factor=2.0, mode="nearest")
                nodes[scale].append(block(torch.cat([*nodes[scale], coarser], dim=1)))
        return self.paint(nodes[0][-1])


class RFNNest(PairLeader):
    r"""RFN-Nest, reimplemented, from scratch.

    Stage 1 teaches encoder and decoder to reconstruct each image:

    .. math:: L_{auto} = \lVert O - I \rVert^2 + \lambda (1 - \mathrm{SSIM}(O, I))

    Stage 2 teaches the four residual fusion networks alone, here as in a bi-level training:

    .. math:: L_{RFN} = \alpha (1 - \mathrm{SSIM}(O, I_{vi}))
        + \sum_{m=1}^4 w_m \lVert \Phi_f^m - (w_{vi} \Phi_{vi}^m + w_{ir} \Phi_{ir}^m) \rVert^2

    Norms are means over all values, and of grey levels of 0..255, as in the public code.

    Where it leaves the paper: the fused features are as strong as both weights together, and what is painted is in no known
    range. The public code stretches every painted image to the full range; here it is stretched so that black in both images
    becomes black, and white in both white, and clamped: a patch is as bright as it is in the whole image. The detail loss sees
    it before it is clamped. The public code's ReLU behind the last layer is left out: a network that starts below 0 everywhere
    would stay there.

    Args:
        modalities, conv_op, strides, reference, colours, folding: As every leader for two modalities takes them.
        detail, reference_features, other_features: As in :class:`Settings`.

    Source: Li, Wu, Kittler, RFN-Nest: an end-to-end residual fusion network for infrared and visible images, Information Fusion
    73, 2021, sections 3.1 to 3.3; the halved channels inside a block and the 1-wide layers are the public code's.
    """

    reconstructs = True
    multiple = 2 ** (len(FEATURES) - 1)
    smallest = 2 * multiple  # for reflection at the coarsest scale

    def __init__(self, modalities: int, *, conv_op: type[nn.Module], strides: Sequence[Sequence[int] | int], reference: int = 0,
                 colours: int = 1, folding: bool = False, detail: float = 700.0, reference_features: float = 3.0,
                 other_features: float = 6.0) -> None:
        super().__init__(modalities, conv_op=conv_op, strides=strides, reference=reference, colours=colours, folding=folding)
        self.detail, self.reference_features, self.other_features = detail, reference_features, other_features
        self.stem = _layer(conv_op, 1, STEM, 1)
        self.encoder = nn.ModuleList(_block(conv_op, before, after) for before, after in pairwise((STEM, *FEATURES)))
        self.fusion = nn.ModuleList(ResidualFusion(conv_op, features) for features in FEATURES)
        self.decoder = NestDecoder(conv_op)

    def encode(self, images: Tensor) -> list[Tensor]:
        """Features (B, c, *s) at each scale of images (B, 1, *S) in [0, 1], the finest first."""
        features = self.stem(images)
        scales: list[Tensor] = []
        for block in self.encoder:
            features = block(POOLS[self.axes](features, 2) if scales else features)
            scales.append(features)
        return scales

    def fuse_pair(self, first: Tensor, second: Tensor) -> tuple[Tensor, Painted]:
        """Fuse; see :class:`PairLeader`."""
        painted = self._painted(first, second)
        with torch.no_grad():
            plain = torch.ones(2, 1, *[self.smallest] * self.axes, device=first.device)
            plain[0] = 0
            black, white = self._painted(plain, plain).image.mean(dim=tuple(range(1, plain.ndim)))
        image = (painted.image - black) / (white - black).clamp(min=FAINTEST)
        return image.clamp(0, 1), painted._replace(image=image)

    def _painted(self, first: Tensor, second: Tensor) -> Painted:
        ours, theirs = zip(*(scale.chunk(2) for scale in self.encode(torch.cat([first, second]))), strict=True)
        fused = [network(one, other) for network, one, other in zip(self.fusion, ours, theirs, strict=True)]
        return Painted(list(ours), list(theirs), fused, self.decoder(fused))

    def pair_losses(self, fold: Fold) -> dict[str, Tensor]:
        """What teaches the residual fusion networks."""
        features = sum(
            weight * mse_loss(fused, self.reference_features * one + self.other_features * other)
            for weight, fused, one, other in zip(SCALES, fold.own.fused, fold.own.first, fold.own.second, strict=True))
        return {"detail": self.detail * (1 - ssim(fold.own.image, fold.first)), "features": LEVELS_SQUARED * features}

    def pretraining_losses(self, sources: Tensor, present: Tensor | None = None) -> dict[str, Tensor]:
        """See :class:`LeaderNetwork`; of all modalities alike."""
        images = self.pad(sources).flatten(0, 1).unsqueeze(1)
        images = images if present is None else images[present.flatten()]
        painted = self.decoder(self.encode(images))
        return {"pixel": LEVELS_SQUARED * mse_loss(painted, images), "ssim": SIMILARITY * (1 - ssim(painted, images))}

    def taught_parameters(self) -> list[nn.Parameter]:
        """Of the residual fusion networks; stage 1 alone teaches the rest."""
        return list(self.fusion.parameters())


LEADER = RFNNest

"""DIDFuse (Zhao et al., IJCAI 2020): an auto-encoder takes images apart into base and detail; what two have of these is added."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.nn.modules.batchnorm import _BatchNorm

from fuse4seg.losses.ssim import ssim
from fuse4seg.losses.strongest_source import edge_loss
from fuse4seg.networks.convolution import axes_of
from fuse4seg.networks.pair_leader import Fold, PairLeader, PairSettings
from fuse4seg.ranks import over_ranks
from fuse4seg.recipes.recipe import entry

#: Channels of every layer.
FEATURES = 64
#: Weight of 1 - SSIM, halved, beside the squared error (the paper's lambda).
SIMILARITY = 5.0
NORMS = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


@dataclass(frozen=True)
class Settings(PairSettings):
    """Weights of the auto-encoder's losses; the one that brings the bases together is 1."""

    details_apart: float = entry("alpha 1, of the distance between the details of two modalities", least=0, planned=True)
    fidelity: float = entry("alpha 2 and 3, of each modality's reconstruction", least=0, planned=True)
    gradient: float = entry("alpha 4, of the gradients of the reference's reconstruction", least=0, planned=True)


class Encoded(NamedTuple):
    """Features of one image, each (B, FEATURES, *S): of the first two layers, and what the image is taken apart into."""

    first: Tensor
    second: Tensor
    base: Tensor
    detail: Tensor


class DIDFuse(PairLeader):
    r"""Deep image decomposition, reimplemented, from scratch.

    One encoder for both images: two layers, then one for the base, of low frequencies, and one for the detail, of high ones. The
    decoder takes both and, by skip connections, the first two layers' features. Features of two images are added, each of the
    four to its like ("summation" of the paper).

    Only stage 1 is published, and nothing else teaches this network: in stage 2 the same losses go on.

    .. math:: L = \tanh \lVert B_V - B_I \rVert^2 - \alpha_1 \tanh \lVert D_V - D_I \rVert^2
        + \alpha_2 f(I, \hat I) + \alpha_3 f(V, \hat V) + \alpha_4 \lVert \nabla V - \nabla \hat V \rVert_1, \quad
        f(X, \hat X) = \lVert X - \hat X \rVert^2 + \lambda (1 - \mathrm{SSIM}(X, \hat X)) / 2

    Norms are means over all values: sums would leave tanh at 1. The gradients are differences of neighbours.

    Where it leaves the paper: all images go through a batch normalisation together, so that training normalises as prediction
    does. Only these losses use and move its statistics of the batch. Fusion uses the running ones, of single images, in training,
    too: a follower learns on the image that it will be given.

    Args:
        modalities, conv_op, strides, reference, colours, folding: As every leader for two modalities takes them.
        details_apart, fidelity, gradient: As in :class:`Settings`.

    Source: Zhao et al., DIDFuse: deep image decomposition for infrared and visible image fusion, IJCAI 2020, sections 3.1 to 3.4;
    the 64 channels and which layers pad by reflection are the public code's.
    """

    reconstructs = True
    smallest = 2  # for reflection

    def __init__(self, modalities: int, *, conv_op: type[nn.Module], strides: Sequence[Sequence[int] | int], reference: int = 0,
                 colours: int = 1, folding: bool = False, details_apart: float = 0.05, fidelity: float = 2.0,
                 gradient: float = 10.0) -> None:
        super().__init__(modalities, conv_op=conv_op, strides=strides, reference=reference, colours=colours, folding=folding)
        self.details_apart, self.fidelity, self.gradient = details_apart, fidelity, gradient
        self.first = _layer(conv_op, 1, FEATURES, nn.PReLU(), border="reflect")
        self.second = _layer(conv_op, FEATURES, FEATURES, nn.PReLU())
        self.base = _layer(conv_op, FEATURES, FEATURES, nn.Tanh())
        self.detail = _layer(conv_op, FEATURES, FEATURES, nn.Tanh())
        self.join = _layer(conv_op, 2 * FEATURES, FEATURES, nn.PReLU())
        self.refine = _layer(conv_op, 2 * FEATURES, FEATURES, nn.PReLU())
        self.paint = _layer(conv_op, 2 * FEATURES, 1, nn.Sigmoid(), border="reflect")

    def encode(self, images: Tensor) -> Encoded:
        """Take images (B, 1, *S) in [0, 1] apart."""
        first = self.first(images)
        second = self.second(first)
        return Encoded(first, second, self.base(second), self.detail(second))

    def decode(self, features: Encoded) -> Tensor:
        """Image in [0, 1], shape (B, 1, *S)."""
        joined = self.join(torch.cat([features.base, features.detail], dim=1))
        refined = self.refine(torch.cat([joined, features.second], dim=1))
        return self.paint(torch.cat([refined, features.first], dim=1))

    def fuse_pair(self, first: Tensor, second: Tensor) -> tuple[Tensor, None]:
        """Fuse; see :class:`PairLeader`."""
        with _statistics(self, moving=False):
            both = self.encode(torch.cat([first, second]))
            return self.decode(Encoded(*(sum(features.chunk(2)) for features in both))), None

    def pair_losses(self, fold: Fold) -> dict[str, Tensor]:
        """What stage 1 teaches, of the two images that were fused."""
        return self._losses(torch.stack([fold.first, fold.second]))

    def pretraining_losses(self, sources: Tensor, present: Tensor | None = None) -> dict[str, Tensor]:
        """See :class:`LeaderNetwork`; of more than two modalities each is paired with the reference.

        Where samples lack modalities, it is pair by pair by those that have both; where none has, by each image with itself.
        """
        padded = self.pad(sources)
        others = [index for index in range(self.modalities) if index != self.reference]
        images = padded[:, [self.reference, *others]].transpose(0, 1).unsqueeze(2)
        if present is None:
            return self._losses(images)
        there = present[:, [self.reference, *others]].T
        pairs = [images[[0, other]][:, both] for other in range(1, len(there)) if (both := there[0] & there[other]).any()]
        each = [self._losses(pair) for pair in pairs or [torch.stack([images[there]] * 2)]]
        return {name: sum(parts[name] for parts in each) / len(each) for name in each[0]}

    def _losses(self, images: Tensor) -> dict[str, Tensor]:
        """Of images (N, B, 1, *S), the reference first."""
        # Looking at a validation batch teaches nothing.
        with _statistics(self, moving=self.training and torch.is_grad_enabled()):
            features = self.encode(images.flatten(0, 1))
            painted = self.decode(features).unflatten(0, images.shape[:2])
        bases, details = (part.unflatten(0, images.shape[:2]) for part in (features.base, features.detail))
        count = len(images)
        pairs = [(0, other) for other in range(1, count)]
        together = sum(over_ranks(mse_loss(bases[one], bases[other])).tanh() for one, other in pairs) / len(pairs)
        apart = sum(over_ranks(mse_loss(details[one], details[other])).tanh() for one, other in pairs) / len(pairs)
        faithful = sum(mse_loss(made, image) + SIMILARITY * (1 - ssim(made, image)) / 2
                       for made, image in zip(painted, images, strict=True))
        return {"bases": together, "details": -self.details_apart * apart,
                # Two modalities are published: of more, each counts as much less.
                "fidelity": self.fidelity * 2 / count * faithful,
                "gradient": self.gradient * edge_loss(painted[0], images[0])}


def _layer(conv_op: type[nn.Module], channels: int, features: int, activation: nn.Module, *,
           border: str = "zeros") -> nn.Sequential:
    convolution = conv_op(channels, features, 3, padding=1, padding_mode=border)
    return nn.Sequential(convolution, NORMS[axes_of(conv_op)](features), activation)


@contextmanager
def _statistics(network: nn.Module, *, moving: bool) -> Iterator[None]:
    """Batch normalisation by the batch's statistics, which the running ones follow, or by those, which stay."""
    # Their common class: on several GPUs they are torch.nn.SyncBatchNorm.
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    before = [norm.training for norm in norms]
    for norm in norms:
        norm.train(moving)
    try:
        yield
    finally:
        for norm, training in zip(norms, before, strict=True):
            norm.train(training)


LEADER = DIDFuse

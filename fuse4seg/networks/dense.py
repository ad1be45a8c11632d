"""Dense generator: every layer sees all features before it, and what they gather is narrowed down to one image."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from fuse4seg.networks.convolution import axes_of

NORMALISATIONS: dict[int, type[nn.Module]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


class DenseGenerator(nn.Module):
    """3-wide convolutions at full resolution: a first one, a dense block, and some that narrow down to the image.

    Args:
        conv_op: ``torch.nn.Conv2d`` or ``torch.nn.Conv3d``.
        sources: Images that enter side by side.
        growth: Channels of the first layer, and of each of the dense block.
        layers: Of the dense block.
        narrowing: Channels of each layer between the block and the image.
        activation: Makes what follows each layer but the last.
        batch_norm: Normalise before each activation over batch and space.
        padding_mode: Of the convolutions; reflection needs two voxels along each axis.

    Source: the generators of U2Fusion, DDcGAN and TarDAL, which differ in these numbers alone; the form is DenseFuse's
    (Li and Wu, IEEE TIP 2019).
    """

    def __init__(self, conv_op: type[nn.Module], *, sources: int, growth: int, layers: int, narrowing: Sequence[int],
                 activation: Callable[[], nn.Module], batch_norm: bool = False, padding_mode: str = "reflect") -> None:
        super().__init__()
        norm = NORMALISATIONS[axes_of(conv_op)] if batch_norm else None

        def layer(channels: int, features: int) -> nn.Sequential:
            between = [] if norm is None else [norm(features)]
            convolution = conv_op(channels, features, 3, padding=1, padding_mode=padding_mode)
            return nn.Sequential(convolution, *between, activation())

        self.first = layer(sources, growth)
        self.block = nn.ModuleList(layer(number * growth, growth) for number in range(1, layers + 1))
        widths = [(layers + 1) * growth, *narrowing]
        self.narrow = nn.Sequential(*map(layer, widths[:-1], widths[1:]))
        self.last = conv_op(widths[-1], 1, 3, padding=1, padding_mode=padding_mode)

    def forward(self, images: Tensor) -> Tensor:
        """One image in [0, 1], shape (B, 1, *S), of images in [0, 1], shape (B, sources, *S).

        tanh reaches from -1 to 1; half of it and a half lie in [0, 1]. In float32 or better, so that grey levels stay
        apart.
        """
        features = self.first(images)
        for layer in self.block:
            features = torch.cat([features, layer(features)], dim=1)
        image = self.last(self.narrow(features))
        return image.to(torch.promote_types(image.dtype, torch.float32)).tanh() / 2 + 0.5

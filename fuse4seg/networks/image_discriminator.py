"""Image discriminator: one value for a whole image."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from fuse4seg.networks.convolution import axes_of
from fuse4seg.networks.dense import NORMALISATIONS

#: Channels of its layers.
WIDTHS = (32, 64, 128)


class ImageDiscriminator(nn.Module):
    """Three strided convolutions of 3 voxels, and the mean of what one more says at each place.

    The published ones end in a fully connected layer, which knows one size of image. The mean takes any.

    Args:
        conv_op: ``torch.nn.Conv2d`` or ``torch.nn.Conv3d``.
        activation: Makes what follows each strided convolution.
        batch_norm: Normalise before each activation but the first over batch and space.

    Source: the discriminators of DDcGAN and TarDAL, which differ in these arguments alone.
    """

    def __init__(self, conv_op: type[nn.Module], *, activation: Callable[[], nn.Module],
                 batch_norm: bool = False) -> None:
        super().__init__()
        norm = NORMALISATIONS[axes_of(conv_op)] if batch_norm else None
        layers: list[nn.Module] = []
        for channels, features in zip((1, *WIDTHS[:-1]), WIDTHS, strict=True):
            layers.append(conv_op(channels, features, 3, stride=2, padding=1))
            layers += [norm(features)] if norm is not None and channels > 1 else []
            layers.append(activation())
        self.layers = nn.Sequential(*layers, conv_op(WIDTHS[-1], 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Value of each image, shape (B, N), of images (B, N, *S), each seen by itself."""
        return self.layers(images.flatten(0, 1).unsqueeze(1)).flatten(1).mean(dim=1).view(images.shape[:2])

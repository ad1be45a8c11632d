"""Discriminators: they tell images of one kind from images made to look like them, patch by patch or as a whole."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from fuse4seg.networks.convolution import axes_of
from fuse4seg.networks.dense import NORMALISATIONS

CONVOLUTIONS: dict[int, type[nn.Module]] = {2: nn.Conv2d, 3: nn.Conv3d}
#: Voxels per axis that the strides need; thinner patches are padded with black.
SMALLEST = 8
#: Channels of its layers.
WIDTHS = (32, 64, 128)


class Discriminator(nn.Module):
    """Three strided convolutions and one to patch logits, under spectral normalisation.

    Spectral normalisation keeps the game stable without looking at other voxels: instance normalisation would hide
    brightness and contrast, by which modalities differ most. The stride divides the kernels' width of 4, so that the
    gradient that reaches the image carries no checkerboard. The first convolution is strided, so no layer works at full
    resolution.

    Args:
        dimensions: 2 or 3.
        features: Channels of the first convolution; doubled by each of the next two.

    Raises:
        ValueError: Neither 2 nor 3 dimensions.
    """

    def __init__(self, dimensions: int, features: int = 16) -> None:
        super().__init__()
        if dimensions not in CONVOLUTIONS:
            raise ValueError(f"a discriminator has 2 or 3 dimensions, not {dimensions}")
        convolution = CONVOLUTIONS[dimensions]
        widths = (1, features, 2 * features, 4 * features)
        layers: list[nn.Module] = []
        for channels, wider in zip(widths[:-1], widths[1:], strict=True):
            layers += [spectral_norm(convolution(channels, wider, 4, stride=2, padding=1)), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, spectral_norm(convolution(widths[-1], 1, 3, padding=1)))

    def forward(self, images: Tensor) -> Tensor:
        """Patch logits, positive where the image is taken for real.

        Args:
            images: In [0, 1], shape (B, 1, *S).

        Returns:
            Logits, shape (B, 1, *S // 8), at least one per axis; each sees a patch of 38 voxels per axis.
        """
        missing = [amount for extent in reversed(images.shape[2:]) for amount in (0, max(0, SMALLEST - extent))]
        return self.layers(2 * (functional.pad(images, missing) if any(missing) else images) - 1)


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

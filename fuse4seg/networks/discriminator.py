"""Discriminator: tells the images of one modality from images made to look like them, patch by patch."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

CONVOLUTIONS: dict[int, type[nn.Module]] = {2: nn.Conv2d, 3: nn.Conv3d}
#: Voxels per axis that the strides need; thinner patches are padded with black.
SMALLEST = 8


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

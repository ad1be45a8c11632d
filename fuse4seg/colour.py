"""Windows, levels, luma and chroma of images, the same for tensors and arrays."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np

Image = TypeVar("Image")
#: Levels of an image of 8 bits run from 0, which is black, to this.
WHITE = 255
#: Of intensities, black and white; 99.9 rather than nnU-Net's 99.5, so that an enhancing rim does not saturate.
PERCENTILES = (0.5, 99.9)
#: Parts of red, green and blue in luma (ITU-R BT.601).
LUMA = (0.299, 0.587, 0.114)
#: What B - Y and R - Y are multiplied by to lie within half the range (ITU-R BT.601, full range).
BLUE_DIFFERENCE, RED_DIFFERENCE = 0.5 / (1 - LUMA[2]), 0.5 / (1 - LUMA[0])


def windowed(image: Image, low: Any, high: Any) -> Image:
    """Intensities between ``low`` and ``high`` as 0 to 1, and what lies beyond as 0 or 1.

    Args:
        image: Any shape.
        low: What becomes black, a number or of a shape that goes with the image's.
        high: What becomes white, above ``low``.

    Example:
        >>> import numpy as np
        >>> windowed(np.array([-50.0, 0.0, 40.0, 300.0]), -20, 100)
        array([0.        , 0.16666667, 0.5       , 1.        ])
    """
    return ((image - low) / (high - low)).clip(0, 1)


def window_of(intensities: np.ndarray) -> tuple[float, float]:
    """Percentiles 0.5 and 99.9; where single precision can hardly tell these apart, a window that starts there."""
    if intensities.size == 0:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(intensities, PERCENTILES))
    magnitude = max(abs(low), abs(high))
    return (low, high) if high - low > max(1e-6 * magnitude, 1e-30) else (low, low + max(1.0, 1e-3 * magnitude))


def luma(image: Image) -> Image:
    """Y of red, green and blue, shape (B, 1, *S) of (B, 3, *S); an image of one channel as it is.

    Example:
        >>> import numpy as np
        >>> luma(np.full((1, 3, 4, 4), 0.5)).round(6).max()
        np.float64(0.5)
    """
    if image.shape[1] == 1:
        return image
    return sum(part * image[:, channel:channel + 1] for channel, part in enumerate(LUMA))


def grey_levels(channels: np.ndarray) -> np.ndarray:
    """Luma, uint8, shape (*S), of levels (C, *S); of one channel, that channel."""
    return np.rint(luma(channels[None].astype(np.float32))[0, 0]).astype(np.uint8)


def chroma(image: np.ndarray) -> np.ndarray:
    """Distance from grey, root of Cb² + Cr², in the image's units, shape (B, 1, *S) of red, green and blue, (B, 3, *S)."""
    return np.hypot(*colour_differences(image))


def colour_differences(image: Image) -> tuple[Image, Image]:
    """Cb and Cr of red, green and blue, in [-1/2, 1/2], shape (B, 1, *S) each of (B, 3, *S)."""
    y = luma(image)
    return BLUE_DIFFERENCE * (image[:, 2:3] - y), RED_DIFFERENCE * (image[:, 0:1] - y)

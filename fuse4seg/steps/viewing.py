"""Small changes under which a person reads an image alike, and so must the follower, so that nothing fine can speak to it."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch
from torch import Tensor

from fuse4seg.losses.filters import smoothed
from fuse4seg.ranks import own_slice, world_size
from fuse4seg.recipes.recipe import VIEWING

#: Each is made of every other sample, chosen at random.
PROBABILITY = 0.5
#: Largest change of the exponent's logarithm, of the gain from 1, and of the offset.
GAMMA, GAIN, OFFSET = 0.22, 0.1, 0.05
#: Largest standard deviation of the noise: a few grey levels of 255.
NOISE = 4 / 255
#: Columns of what is drawn: part of the blur, exponent, gain, offset, standard deviation; and what changes nothing.
UNCHANGED = (0.0, 1.0, 1.0, 0.0, 0.0)


def draw_viewing(random_numbers: np.random.Generator, samples: int, *, changes: Collection[str] = VIEWING) -> Tensor:
    """How much each sample is changed.

    Args:
        random_numbers: Where the draws come from.
        samples: B.
        changes: Some of VIEWING.

    Returns:
        float32, shape (B, 5). Whatever ``changes`` are, the same numbers are drawn, so that one's do not depend on the others.
    """
    drawn = np.stack([random_numbers.random(samples),
                      np.exp(random_numbers.uniform(-GAMMA, GAMMA, samples)),
                      1 + random_numbers.uniform(-GAIN, GAIN, samples),
                      random_numbers.uniform(-OFFSET, OFFSET, samples),
                      random_numbers.uniform(0, NOISE, samples)], axis=1)
    happens = random_numbers.random((samples, len(VIEWING))) < PROBABILITY
    happens &= np.isin(VIEWING, list(changes))
    return torch.from_numpy(np.where(happens[:, [0, 1, 2, 2, 3]], drawn, UNCHANGED).astype(np.float32))


def as_viewed(image: Tensor, viewing: Tensor) -> Tensor:
    r"""The image as it reaches the follower in training.

    .. math:: \theta' = \min(1, \max(0, a \, ((1 - b) \theta + b \bar \theta)^\gamma + o + \sigma n))

    with the image's binomial blur over three voxels under the bar, and n drawn from PyTorch's generator.

    Args:
        image: In [0, 1], shape (B, C, *S), 0 outside.
        viewing: From :func:`draw_viewing`, shape (B, 5).

    Returns:
        In [0, 1], shape (B, C, *S), 0 where ``image`` is 0 in all channels.
    """
    blur, gamma, gain, offset, noise = (column.view(-1, *[1] * (image.ndim - 1)) for column in viewing.to(image).unbind(dim=1))
    inside = (image != 0).any(dim=1, keepdim=True)
    changed = torch.lerp(image, blurred(image), blur)
    changed = gain * changed.clamp(min=1e-3) ** gamma + offset + noise * _normal(image)
    return torch.where(inside, changed.clamp(0, 1), 0)


def _normal(image: Tensor) -> Tensor:
    """Normal noise of the shape of ``image``, drawn sample by sample of all ranks: as one rank draws it, and all go on alike."""
    drawn = torch.empty(image.shape, dtype=image.dtype, device=image.device)
    own = own_slice(len(image) * world_size())
    for place in range(len(image) * world_size()):
        (drawn[place - own.start] if place in own else torch.empty_like(drawn[0])).normal_()
    return drawn


def blurred(images: Tensor) -> Tensor:
    """Binomial blur, 1 2 1 along every axis of S, of (B, C, *S); the border is repeated."""
    for axis in range(2, images.ndim):
        images = smoothed(images, axis)
    return images

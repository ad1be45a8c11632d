"""Chroma loss: tissue in which nothing was found is grey, so that colour is spent on what differs."""

from __future__ import annotations

from torch import Tensor

from fuse4seg.colour import colour_differences
from fuse4seg.ranks import over_ranks, world_size

#: Added to the squared chroma: its root then has a gradient where an image is grey.
FLOOR = 1e-6


def chroma_loss(image: Tensor, tissue: Tensor) -> Tensor:
    r"""Mean chroma over tissue.

    .. math:: \frac{1}{|T|} \sum_{x \in T} \sqrt{C_b(x)^2 + C_r(x)^2}

    The root, not the square: what a lesion's colour costs where healthy tissue resembles it is then no reason to be pale.

    Args:
        image: In [0, 1], shape (B, C, *S).
        tissue: 1 where the image shall be grey and 0 elsewhere, shape (B, 1, *S).

    Returns:
        Scalar, 0 for grey images and where there is no tissue; at most 0.535 (pure green or magenta).

    Source: ITU-R BT.601 (Cb and Cr).

    Example:
        >>> green = torch.tensor([0.0, 1.0, 0.0]).view(1, 3, 1, 1)
        >>> chroma_loss(green, torch.ones(1, 1, 1, 1)), chroma_loss(torch.full((1, 3, 1, 1), 0.5), torch.ones(1, 1, 1, 1))
        (tensor(0.5329), tensor(0.))
    """
    if image.shape[1] == 1:
        return image.new_zeros(())
    blue, red = colour_differences(image)
    chroma = (blue.square() + red.square() + FLOOR).sqrt() - FLOOR**0.5
    return (chroma * tissue).sum() / over_ranks(tissue.sum()).clamp(min=1 / world_size())

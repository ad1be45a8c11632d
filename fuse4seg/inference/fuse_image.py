"""Fuse a whole image once: slice by slice for a 2D model, in windows of the patch's size, blended where there are several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from fuse4seg.inference.tiles import blend_tiles, pad_to_tiles
from fuse4seg.networks.fuse_then_segment import FuseThenSegment

#: Voxels fused in one pass of a 2D model, to bound memory.
VOXELS_AT_ONCE = 2**19


class WholeImage(NamedTuple):
    """A fused image in the space of the preprocessed case.

    Attributes:
        fused: In [0, 1], 0 outside, shape (C, Z, Y, X).
        attention: Where the reference looked in each other modality, relative to looking everywhere alike (1), shape
            (N - 1, Z, Y, X); 0 for absent ones. None unless asked for.
    """

    fused: Tensor
    attention: Tensor | None


@torch.inference_mode()
def fuse_whole_image(model: FuseThenSegment, channels: Tensor, *, patch_size: Sequence[int], device: torch.device,
                     present: Sequence[bool] | None = None, want_attention: bool = False) -> WholeImage:
    """Fuse a preprocessed case.

    The leader always looks at windows of exactly the patch's size, padded with zeros where the image is smaller, as in training:
    its attention compares places of the whole window.

    Args:
        model: In evaluation mode, on ``device``.
        channels: Preprocessed channels, shape (C, Z, Y, X).
        patch_size: The plans' patch: two axes for a 2D model, which fuses along Y and X slice by slice.
        device: Where the model computes; the result is on the CPU.
        present: Which modalities the case has; None for all. What stands in the channel of an absent one does not matter.
        want_attention: Also give attention maps.
    """
    flat = len(patch_size) == 2
    images = channels.transpose(0, 1) if flat else channels.unsqueeze(0)
    chunk = max(1, VOXELS_AT_ONCE // (images[0, 0].numel() * model.modalities)) if flat else 1
    padded, inside = pad_to_tiles(images, tile=patch_size)
    # Windows overlap by half, as nnU-Net lays them.
    parts = [blend_tiles(part.to(device), lambda window: _fuse_tile(model, window, present, want_attention), tile=patch_size)
             for part in padded.split(chunk)]
    seen = torch.cat(parts)[inside]
    fused, maps = (seen.transpose(0, 1) if flat else seen.squeeze(0)).tensor_split([model.fusion.colours])
    return WholeImage(fused, maps if len(maps) else None)


def _fuse_tile(model: FuseThenSegment, images: Tensor, present: Sequence[bool] | None, want_attention: bool) -> Tensor:
    has = None if present is None else torch.tensor(present, device=images.device).expand(len(images), -1)
    seen = model.fuse(images, present=has, want_maps=want_attention)
    channels = [seen.fused.image]
    if seen.fused.attention is not None:
        answering = [index for index in range(model.modalities) if index != model.fusion.reference
                     and (present is None or present[index])]
        places = len(answering) * seen.fused.attention[0, 0].numel()
        mode = "bilinear" if images.ndim == 4 else "trilinear"
        channels.append(functional.interpolate(seen.fused.attention.float() * places, size=images.shape[2:], mode=mode))
    return torch.cat([part.float() for part in channels], dim=1).cpu()

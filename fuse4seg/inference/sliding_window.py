"""Segment what the leader has fused, in windows of the patch's size, many at a time."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from torch import Tensor, nn

from fuse4seg.inference.tiles import blend_tiles

#: Voxels of windows in one pass on a CPU, where more at a time gain nothing.
VOXELS_ON_CPU = 2**18
#: Of a GPU's free memory, bytes that a voxel of a pass may take: those of a wide U-Net's largest features, several times.
BYTES_PER_VOXEL = 2**12


@torch.inference_mode()
def segment_windows(network: nn.Module, image: Tensor, *, patch_size: Sequence[int], step_size: float, device: torch.device,
                    precision: torch.dtype) -> Tensor:
    """Logits of a whole image, blended where windows overlap.

    A window of zeros lies wholly outside the image. Its logits are computed once, and stand for all such windows.

    Args:
        network: Segmentation network in evaluation mode, on ``device``.
        image: What it sees, shape (K, Z, Y, X), anywhere.
        patch_size: Two axes for a 2D network, which sees slices along Z.
        step_size: Step of the windows as a part of the patch, above 0, at most 1.
        device: Where to compute.
        precision: Number format of the network's convolutions.

    Returns:
        float32 on the CPU, shape (classes, Z, Y, X).

    Source: nnU-Net's sliding window, see :func:`~fuse4seg.inference.tiles.blend_tiles`.
    """
    flat = len(patch_size) == 2
    images = image.transpose(0, 1) if flat else image.unsqueeze(0)
    padded, inside = pad_nd_image(images, tuple(patch_size), "constant", {"value": 0}, return_slicer=True)
    total = blend_tiles(padded, lambda window: _segment_batch(network, window, device=device, precision=precision),
                        tile=patch_size, step_size=step_size)
    found = total[(slice(None), slice(None), *inside[2:])]
    return found.transpose(0, 1) if flat else found.squeeze(0)


def _segment_batch(network: nn.Module, images: Tensor, *, device: torch.device, precision: torch.dtype) -> Tensor:
    """Logits (B, classes, *S) of windows (B, K, *S), float32 on the CPU."""
    held = images.flatten(1).any(dim=1)
    parts = [] if held.all() else [_forward(network, torch.zeros_like(images[:1]), device, precision)]
    for batch in images[held].split(_at_once(images, device)):
        parts.append(_forward(network, batch, device, precision))
    if held.all():
        return torch.cat(parts) if len(parts) > 1 else parts[0]
    empty, *segmented = parts
    logits = empty.expand(len(images), *empty.shape[1:]).clone()
    if segmented:
        logits[held] = torch.cat(segmented)
    return logits


def _forward(network: nn.Module, images: Tensor, device: torch.device, precision: torch.dtype) -> Tensor:
    moved = images.to(device, non_blocking=True)
    if moved.ndim == 4 and precision != torch.float32:
        moved = moved.contiguous(memory_format=torch.channels_last)
    with torch.autocast(device.type, dtype=precision, enabled=precision != torch.float32):
        return network(moved).float().cpu()


def _at_once(images: Tensor, device: torch.device) -> int:
    """Windows in one pass."""
    voxels = VOXELS_ON_CPU
    if device.type == "cuda":
        voxels = torch.cuda.mem_get_info(device)[0] // BYTES_PER_VOXEL
    return max(1, voxels // prod(images.shape[2:]))

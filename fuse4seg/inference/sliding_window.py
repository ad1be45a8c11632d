"""Segment what the leader has fused, in windows of the patch's size and their mirrored copies, many at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import combinations
from math import prod

import torch
from torch import Tensor, nn

from fuse4seg.inference.instance_norm import as_group_norms
from fuse4seg.inference.tiles import blend_tiles, pad_to_tiles

#: Voxels of windows in one pass on a CPU, where more at a time gain nothing.
VOXELS_ON_CPU = 2**18
#: Of a GPU's free memory, bytes that a voxel of a pass may take: those of a wide U-Net's largest features, several times.
BYTES_PER_VOXEL = 2**12


@torch.inference_mode()
def segment_windows(network: nn.Module, image: Tensor, *, patch_size: Sequence[int], step_size: float, device: torch.device,
                    precision: torch.dtype, mirror_axes: Sequence[int] = (),
                    read: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """Logits of a whole image, blended where windows overlap.

    A window of zeros lies wholly outside the image. Its logits are computed once, and stand for all such windows.

    Args:
        network: Segmentation network in evaluation mode, on ``device``.
        image: What it sees, shape (K, Z, Y, X), anywhere.
        patch_size: Two axes for a 2D network, which sees slices along Z.
        step_size: Step of the windows as a part of the patch, above 0, at most 1.
        device: Where to compute.
        precision: Number format of the network's convolutions.
        mirror_axes: Axes of the patch. Each window's logits are the mean over its copies, mirrored along all combinations.
        read: Makes of a window (B, K, *patch) what enters the network, None where that is the window.

    Returns:
        float32 on the CPU, shape (classes, Z, Y, X).

    Source: nnU-Net's sliding window, see :func:`~fuse4seg.inference.tiles.blend_tiles`.
    """
    flat = len(patch_size) == 2
    images = image.transpose(0, 1) if flat else image.unsqueeze(0)
    padded, inside = pad_to_tiles(images, tile=patch_size)
    copies = mirrored_copies(mirror_axes, first=2)
    with as_group_norms(network) if device.type == "cpu" else nullcontext():
        total = blend_tiles(padded, lambda window: _segment_batch(network, window, copies, device=device, precision=precision,
                                                                  read=read or _as_they_are),
                            tile=patch_size, step_size=step_size)
    found = total[inside]
    return found.transpose(0, 1) if flat else found.squeeze(0)


def mirrored_copies(axes: Sequence[int], *, first: int) -> list[tuple[int, ...]]:
    """What to flip for each mirrored copy: all combinations of axes, the empty one in front.

    Args:
        axes: Of the patch.
        first: The tensor's axis that the patch begins with.
    """
    return [tuple(first + axis for axis in chosen) for count in range(len(axes) + 1) for chosen in combinations(axes, count)]


def _segment_batch(network: nn.Module, images: Tensor, copies: Sequence[tuple[int, ...]], *, device: torch.device,
                   precision: torch.dtype, read: Callable[[Tensor], Tensor]) -> Tensor:
    """Logits (B, classes, *S) of windows (B, K, *S), float32 on the CPU."""
    at_once = _at_once(images, device)

    def segment(windows: Tensor) -> Tensor:
        return _mean_of_copies(network, read(_moved(windows, device)), copies, at_once=at_once, precision=precision)

    held = images.flatten(1).any(dim=1)
    parts = [] if held.all() else [segment(torch.zeros_like(images[:1]))]
    if held.any():
        parts += map(segment, images[held].split(max(1, at_once // len(copies))))
    if held.all():
        return torch.cat(parts) if len(parts) > 1 else parts[0]
    empty, *segmented = parts
    logits = empty.expand(len(images), *empty.shape[1:]).clone()
    if held.any():
        logits[held] = torch.cat(segmented)
    return logits


def _as_they_are(windows: Tensor) -> Tensor:
    return windows


def _mean_of_copies(network: nn.Module, windows: Tensor, copies: Sequence[tuple[int, ...]], *, at_once: int,
                    precision: torch.dtype) -> Tensor:
    """Mean logits over mirrored copies, ``at_once`` of them in one pass at most; no more windows than fit are given."""
    total = 0.0
    for start in range(0, len(copies), at_once):
        group = copies[start:start + at_once]
        logits = _forward(network, torch.cat([windows.flip(axes) for axes in group]), precision)
        total = sum((part.flip(axes) for part, axes in zip(logits.chunk(len(group)), group, strict=True)), start=total)
    return (total / len(copies)).cpu()


def _moved(windows: Tensor, device: torch.device) -> Tensor:
    return windows.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else windows.to(device)


def _forward(network: nn.Module, images: Tensor, precision: torch.dtype) -> Tensor:
    if images.ndim == 4:
        images = images.contiguous(memory_format=torch.channels_last)
    with torch.autocast(images.device.type, dtype=precision, enabled=precision != torch.float32):
        return network(images).float()


def _at_once(images: Tensor, device: torch.device) -> int:
    """Windows in one pass."""
    voxels = VOXELS_ON_CPU
    if device.type == "cuda":
        voxels = torch.cuda.mem_get_info(device)[0] // BYTES_PER_VOXEL
    return max(1, voxels // prod(images.shape[2:]))

"""Whole images through the network, in windows of the patch's size that are blended: the leader fuses, the follower segments."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import combinations, product
from math import prod
from typing import NamedTuple

import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from nnunetv2.inference.sliding_window_prediction import compute_gaussian, compute_steps_for_sliding_window
from torch import Tensor, nn
from torch.nn import functional

from fuse4seg.inference.doubt import Disagreement, votes_of
from fuse4seg.networks.fuse_then_segment import FuseThenSegment

#: Voxels fused in one pass of a 2D model, to bound memory.
VOXELS_FUSED_AT_ONCE = 2**19
#: Voxels of windows that the follower segments in one pass on a CPU, where more at a time gain nothing.
VOXELS_ON_CPU = 2**18
#: Of a GPU's free memory, bytes that a voxel of such a pass may take: those of a wide U-Net's largest features, several times.
BYTES_PER_VOXEL = 2**12
#: Voxels of an image for each of its channels, below which group norms are slower than instance norms.
VOXELS_PER_CHANNEL = 4
INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


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
    chunk = max(1, VOXELS_FUSED_AT_ONCE // (images[0, 0].numel() * model.modalities)) if flat else 1
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


class Compared(NamedTuple):
    """Who is told what mirrored copies segment, and how much each voxel of a window weighs there; None for all alike."""

    apart: Disagreement
    weight: Tensor | None


@torch.inference_mode()
def segment_windows(network: nn.Module, image: Tensor, *, patch_size: Sequence[int], step_size: float, device: torch.device,
                    precision: torch.dtype, mirror_axes: Sequence[int] = (),
                    read: Callable[[Tensor], Tensor] | None = None, apart: Disagreement | None = None) -> Tensor:
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
        apart: Is told what the copies of each window segment, where there are several; windows weigh as they are blended.

    Returns:
        float32 on the CPU, shape (classes, Z, Y, X).

    Source: nnU-Net's sliding window, see :func:`blend_tiles`.
    """
    flat = len(patch_size) == 2
    images = image.transpose(0, 1) if flat else image.unsqueeze(0)
    padded, inside = pad_to_tiles(images, tile=patch_size)
    copies = mirrored_copies(mirror_axes, first=2)
    compared = None
    if apart is not None and len(copies) > 1:
        compared = Compared(apart, None if tuple(padded.shape[2:]) == tuple(patch_size) else _blending_weight(tuple(patch_size)))
    with as_group_norms(network) if device.type == "cpu" else nullcontext():
        total = blend_tiles(padded, lambda window: _segment_batch(network, window, copies, device=device, precision=precision,
                                                                  read=read or _as_they_are, compared=compared),
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
                   precision: torch.dtype, read: Callable[[Tensor], Tensor], compared: Compared | None) -> Tensor:
    """Logits (B, classes, *S) of windows (B, K, *S), float32 on the CPU."""
    at_once = _at_once(images, device)

    def segment(windows: Tensor, compared: Compared | None) -> Tensor:
        return _mean_of_copies(network, read(_moved(windows, device)), copies, at_once=at_once, precision=precision,
                               compared=compared)

    held = images.flatten(1).any(dim=1)
    parts = [] if held.all() else [segment(torch.zeros_like(images[:1]), None)]
    if held.any():
        parts += [segment(windows, compared) for windows in images[held].split(max(1, at_once // len(copies)))]
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
                    precision: torch.dtype, compared: Compared | None = None) -> Tensor:
    """Mean logits over mirrored copies, ``at_once`` of them in one pass at most; no more windows than fit are given."""
    total, votes = 0.0, 0
    for start in range(0, len(copies), at_once):
        group = copies[start:start + at_once]
        logits = _forward(network, torch.cat([windows.flip(axes) for axes in group]), precision)
        parts = [part.flip(axes) for part, axes in zip(logits.chunk(len(group)), group, strict=True)]
        total = sum(parts, start=total)
        if compared is not None:
            votes = sum((votes_of(part, regions=compared.apart.regions).byte() for part in parts), start=votes)
    if compared is not None:
        compared.apart.add(votes, voters=len(copies), weight=compared.weight)
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


def pad_to_tiles(images: Tensor, *, tile: Sequence[int]) -> tuple[Tensor, tuple[slice, ...]]:
    """Pad images that are smaller than the window with zeros on both sides, as in training.

    Args:
        images: Shape (B, K, *S).
        tile: Size of the window.

    Returns:
        The padded images, and where the given ones lie in them.
    """
    padded, inside = pad_nd_image(images, tuple(tile), "constant", {"value": 0}, return_slicer=True)
    return padded, (slice(None), slice(None), *inside[2:])


def blend_tiles(images: Tensor, compute: Callable[[Tensor], Tensor], *, tile: Sequence[int], step_size: float = 0.5) -> Tensor:
    """What ``compute`` makes of every window, blended with Gaussian weights; of a single window, just that.

    Args:
        images: Shape (B, K, *S), along no axis smaller than the window.
        compute: Makes (B, K', *tile), float32 on the CPU, of a window (B, K, *tile).
        tile: Size of the window.
        step_size: Step of the windows as a part of it, above 0, at most 1.

    Returns:
        Shape (B, K', *S).

    Source: nnU-Net's sliding window (Isensee et al., 2021): half-overlapping windows, Gaussian weights of 1/8 of the patch.
    """
    size, tile = tuple(images.shape[2:]), tuple(tile)
    if size == tile:
        return compute(images)
    weight = _blending_weight(tile)
    total, weights = None, torch.zeros(size)
    starts = compute_steps_for_sliding_window(size, tile, step_size)
    for corner in product(*starts):
        window = tuple(slice(start, start + extent) for start, extent in zip(corner, tile, strict=True))
        found = compute(images[(..., *window)])
        total = torch.zeros(*found.shape[:2], *size) if total is None else total
        total[(..., *window)] += found * weight
        weights[window] += weight
    return total.div_(weights)


def _blending_weight(tile: tuple[int, ...]) -> Tensor:
    return compute_gaussian(tile, sigma_scale=1 / 8, value_scaling_factor=10, dtype=torch.float32, device=torch.device("cpu"))


@contextmanager
def as_group_norms(network: nn.Module) -> Iterator[None]:
    """Within the block, instance norms are computed as group norms of one channel each, which is the same.

    PyTorch's instance norm copies what is stored channels last, there and back, and takes as long as a convolution; its
    group norm does neither. Norms with running statistics, which are something else, stay as they are.
    """
    norms = [module for module in network.modules()
             if isinstance(module, INSTANCE_NORMS) and not module.track_running_stats]
    for norm in norms:
        norm.forward = partial(_faster_norm, norm)
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward


def _faster_norm(norm: nn.InstanceNorm2d, images: Tensor) -> Tensor:
    channels, voxels = images.shape[1], images[0, 0].numel()
    if voxels < VOXELS_PER_CHANNEL * channels:
        return type(norm).forward(norm, images)
    # Autocast would turn the images to float32, and the next convolution back; sums are in float32 anyway.
    with torch.autocast(images.device.type, enabled=False):
        return functional.group_norm(images, channels, norm.weight, norm.bias, norm.eps)

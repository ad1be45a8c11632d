"""Instance normalisation that a CPU computes fast."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

#: Voxels of an image for each of its channels, below which group norms are the slower ones.
VOXELS_PER_CHANNEL = 4
INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


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

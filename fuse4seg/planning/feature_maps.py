"""How many feature map voxels a network makes: nnU-Net's measure for the memory of training."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

COUNTED = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)


def count_feature_map_voxels(network: nn.Module, input_shape: Sequence[int]) -> int:
    """Elements in the outputs of all convolutions and linear layers in one forward pass of one sample.

    Nothing is computed: the pass runs on the meta device, through a copy of the network without data.
    A layer that runs several times counts several times. For nnU-Net's U-Nets without deep supervision this is what
    their own ``compute_conv_feature_map_size`` gives, as long as the strides divide the input.

    Args:
        network: Network whose ``forward`` takes one tensor. It is left as it is, wherever it lives.
        input_shape: (channels, *S), without the batch axis.
    """
    sizes: list[int] = []

    def count(_layer: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        sizes.append(output.numel())

    stand_in = _on_meta(network)
    for layer in stand_in.modules():
        if isinstance(layer, COUNTED):
            layer.register_forward_hook(count)
    with torch.no_grad():
        stand_in(torch.empty(1, *input_shape, device="meta"))
    return sum(sizes)


def _on_meta(network: nn.Module) -> nn.Module:
    """Copy without data.

    (torch's functional_call would save the copy, but loses parameters of modules with two names, as nnU-Net's have.)
    """
    tensors = (*network.parameters(), *network.buffers())
    return deepcopy(network, {id(tensor): tensor.to("meta") for tensor in tensors})

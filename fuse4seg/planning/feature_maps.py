"""How many feature map voxels a network makes: nnU-Net's measure for the memory of training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

COUNTED = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)


def count_feature_map_voxels(network: nn.Module, input_shape: Sequence[int]) -> int:
    """Elements in the outputs of all convolutions and linear layers in one forward pass of one sample.

    Nothing is computed: the pass runs on the meta device, on stand-ins for the network's parameters and buffers.
    A layer that runs several times counts several times. For nnU-Net's U-Nets without deep supervision this is what their own
    ``compute_conv_feature_map_size`` gives, as long as the strides divide the input.

    Args:
        network: Network whose ``forward`` takes one tensor. It is left as it is, wherever it lives.
        input_shape: (channels, *S), without the batch axis.
    """
    sizes: list[int] = []

    def count(_layer: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        sizes.append(output.numel())

    hooks = [layer.register_forward_hook(count) for layer in network.modules() if isinstance(layer, COUNTED)]
    stand_ins = {name: value.to("meta") for name, value in (*network.named_parameters(), *network.named_buffers())}
    try:
        with torch.no_grad():
            functional_call(network, stand_ins, (torch.empty(1, *input_shape, device="meta"),))
    finally:
        for hook in hooks:
            hook.remove()
    return sum(sizes)

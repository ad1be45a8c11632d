"""Tiny segmentation networks that the network tests share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

#: Strides of the tiny followers, by number of axes.
STRIDES = {axes: [[1] * axes, [2] * axes, [2] * axes] for axes in (2, 3)}
UNET = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
RESENC = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
HYBRID = "fuse4seg.followers.cnn_transformer.CNNTransformer"


@pytest.fixture(autouse=True)
def same_numbers_in_every_run() -> None:
    """Whatever a test draws without a generator of its own."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def follower_architecture() -> Callable[..., dict[str, Any]]:
    """Function of 2 or 3 axes that gives a follower of three stages as it stands in nnU-Net's plans."""

    def make(axes: int, network: str = UNET) -> dict[str, Any]:
        convolutions = "n_blocks_per_stage" if network == RESENC else "n_conv_per_stage"
        return {"network_class_name": network,
                "arch_kwargs": {"n_stages": 3, "features_per_stage": [4, 8, 8], "kernel_sizes": [[3] * axes] * 3,
                                "strides": STRIDES[axes], convolutions: [1, 1, 1],
                                "n_conv_per_stage_decoder": [1, 1], "conv_op": f"torch.nn.modules.conv.Conv{axes}d",
                                "conv_bias": True, "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{axes}d",
                                "norm_op_kwargs": {"eps": 1e-5, "affine": True}, "nonlin": "torch.nn.LeakyReLU",
                                "nonlin_kwargs": {"inplace": True}},
                "_kw_requires_import": ["conv_op", "norm_op", "nonlin"]}

    return make


@pytest.fixture(params=[UNET, RESENC, HYBRID], ids=["unet", "resenc", "cnn_transformer"])
def any_follower(request: pytest.FixtureRequest, follower_architecture: Callable[..., dict[str, Any]],
                 ) -> Callable[[int], dict[str, Any]]:
    """The same function for each kind of follower that can be planned."""
    return lambda axes: follower_architecture(axes, request.param)

"""A tiny model of both levels that the training tests share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from fuse4seg.networks.fuse_then_segment import FuseThenSegment

#: A U-Net of three stages as it stands in nnU-Net's plans.
FOLLOWER = {"network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": {"n_stages": 3, "features_per_stage": [4, 8, 8], "kernel_sizes": [[3, 3]] * 3,
                            "strides": [[1, 1], [2, 2], [2, 2]], "n_conv_per_stage": [1, 1, 1],
                            "n_conv_per_stage_decoder": [1, 1], "conv_op": "torch.nn.modules.conv.Conv2d",
                            "conv_bias": True, "norm_op": "torch.nn.modules.instancenorm.InstanceNorm2d",
                            "norm_op_kwargs": {"eps": 1e-5, "affine": True}, "nonlin": "torch.nn.LeakyReLU",
                            "nonlin_kwargs": {"inplace": True}},
            "_kw_requires_import": ["conv_op", "norm_op", "nonlin"]}
FUSION = {"detail_features": 4, "base_features": 8, "couplings": 1, "transformers": 1}


@pytest.fixture(autouse=True)
def same_numbers_in_every_run() -> None:
    """Whatever a test draws without a generator of its own."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., FuseThenSegment]:
    """Function that gives a 2D model of two modalities and two classes, the same each time."""

    def make(*, extra: int = 0, deep_supervision: bool = False) -> FuseThenSegment:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = FuseThenSegment(2 + extra, 2, conv_op=nn.Conv2d, strides=FOLLOWER["arch_kwargs"]["strides"],
                                    windows=[[-2.0, 2.0]] * 2, follower=FOLLOWER, fusion=FUSION,
                                    deep_supervision=deep_supervision)
            return model.apply(model.initialize)

    return make


@pytest.fixture
def batch() -> torch.Tensor:
    """Four cases of two blurred, normalised channels, shape (4, 2, 16, 16)."""
    noise = torch.randn(4, 2, 20, 20, generator=torch.Generator().manual_seed(0))
    return 3 * nn.functional.avg_pool2d(noise, 5, stride=1)


@pytest.fixture
def targets(batch: torch.Tensor) -> torch.Tensor:
    """Foreground where both channels are bright, which neither of them says alone, shape (4, 16, 16)."""
    return (batch > 0).all(dim=1).long()

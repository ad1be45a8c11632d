"""What tests of fusion networks share: seeds, tiny images, and steps on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

from fuse4seg.planning.leaders import leader_architecture
from fuse4seg.plans import NETWORK
from fuse4seg.recipes.reading import changed, read_recipe
from fuse4seg.recipes.recipe import Recipe
from fuse4seg.steps.fusion import FusionStep
from fuse4seg.steps.levels import build_levels

STRIDES = [[1, 1], [2, 2]]
FOLLOWER = {"network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "_kw_requires_import": ["conv_op"],
            "arch_kwargs": {"n_stages": 2, "features_per_stage": [4, 8], "kernel_sizes": [[3, 3]] * 2,
                            "strides": STRIDES, "n_conv_per_stage": [1, 1], "n_conv_per_stage_decoder": [1],
                            "conv_op": "torch.nn.modules.conv.Conv2d"}}


@pytest.fixture(autouse=True)
def same_numbers_in_every_run() -> None:
    """Whatever a test draws without a generator of its own."""
    torch.manual_seed(0)


class Planned(NamedTuple):
    """A recipe with its network as it stands in plans, for two modalities in 2D."""

    recipe: Recipe
    architecture: dict[str, Any]


@pytest.fixture
def planned() -> Callable[..., Planned]:
    """Function of a recipe's name and of changes."""

    def make(name: str, *changes: str) -> Planned:
        recipe = changed(read_recipe(name), changes)
        arguments = {"conv_op": "torch.nn.modules.conv.Conv2d", "strides": STRIDES, "windows": [(0.0, 1.0)] * 2,
                     "leader": leader_architecture(recipe, reference=0), "follower": FOLLOWER}
        return Planned(recipe, {"network_class_name": NETWORK, "arch_kwargs": arguments,
                                "_kw_requires_import": ["conv_op"]})

    return make


@pytest.fixture
def fusion_step(planned: Callable[..., Planned]) -> Callable[..., FusionStep]:
    """Function of a recipe's name and of changes that gives its step without labels."""

    def make(name: str, *changes: str) -> FusionStep:
        torch.manual_seed(0)
        recipe, network = planned(name, *changes)
        model = get_network_from_plans(network["network_class_name"], network["arch_kwargs"],
                                       network["_kw_requires_import"], 2, 2, allow_init=True, deep_supervision=True)
        return build_levels(model, classes=2, recipe=recipe).fusion_step()

    return make


@pytest.fixture
def sources() -> Callable[..., torch.Tensor]:
    """Function of a shape and a seed that gives smooth images in [0, 1] that differ."""

    def make(*shape: int, seed: int = 0) -> torch.Tensor:
        noise = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
        pool: Any = {2: torch.nn.functional.avg_pool2d, 3: torch.nn.functional.avg_pool3d}[len(shape) - 2]
        smooth = pool(noise, 3, stride=1, padding=1)
        return (smooth / smooth.amax()).contiguous()

    return make

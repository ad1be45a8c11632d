"""Every follower whose stages are as published: what the rest of the program expects of it."""

from __future__ import annotations

import importlib
import pkgutil

import pytest
import torch
from torch import nn

import fuse4seg.followers
from fuse4seg.networks.follower import FixedFollower, FollowerKind

KINDS: dict[str, FollowerKind] = {
    module.name: importlib.import_module(f"fuse4seg.followers.{module.name}").FOLLOWER
    for module in pkgutil.iter_modules(fuse4seg.followers.__path__)}
FIXED = sorted(name for name, kind in KINDS.items() if kind.fixed)
CONV_OP = {2: nn.Conv2d, 3: nn.Conv3d}
FORMS = [(name, axes) for name in FIXED for axes in KINDS[name].axes]
#: nnU-Net's plans say them whatever the network makes of them.
STRIDES = {axes: [[1] * axes, [2] * axes] for axes in (2, 3)}
CLASSES = 3


def planned(name: str, axes: int) -> FixedFollower:
    """As the plans build it."""
    torch.manual_seed(0)
    return KINDS[name].network(2, CLASSES, conv_op=CONV_OP[axes], strides=STRIDES[axes], deep_supervision=False)


@pytest.mark.parametrize(("name", "axes"), FORMS)
class TestEveryFixedFollower:
    def test_takes_images_of_any_size(self, name: str, axes: int) -> None:
        with torch.device("meta"):
            network = planned(name, axes)
            for size in ((64,) * axes, (37, 70, 45)[:axes], *([(224, 224), (512, 512)] if axes == 2 else [])):
                assert network(torch.empty(2, 2, *size)).shape == (2, CLASSES, *size)

    def test_lets_no_case_see_another(self, name: str, axes: int) -> None:
        network = planned(name, axes).eval()
        images = torch.rand(2, 2, *(32, 20, 16)[:axes])
        with torch.no_grad():
            both, alone = network(images), network(images[1:])
        assert both.isfinite().all()
        torch.testing.assert_close(both[1:], alone, rtol=1e-3, atol=1e-4)

    def test_teaches_every_weight(self, name: str, axes: int) -> None:
        network = planned(name, axes).train()
        network(torch.rand(2, 2, *(32, 48, 32)[:axes])).square().mean().backward()
        # A bias before batch normalisation has no effect.
        assert [weights for weights, parameter in network.named_parameters()
                if parameter.grad is None or (parameter.ndim > 1 and not parameter.grad.abs().max() > 0)] == []

    def test_gives_one_output_whatever_nnunet_asks_of_its_decoder(self, name: str, axes: int) -> None:
        assert not KINDS[name].deep_supervision
        with torch.device("meta"):
            network = planned(name, axes)
            network.decoder.deep_supervision = True
            # Of one small sample, of which batch normalisation gets least.
            assert isinstance(network(torch.empty(1, 2, *[8] * axes)), torch.Tensor)


def test_there_are_some() -> None:
    assert {"attention_unet", "cascade", "emcad", "swin_unet", "unet_3plus"} <= set(FIXED)

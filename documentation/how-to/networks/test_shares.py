"""The shares: an image between its sources, and losses that fall."""

from collections.abc import Callable

import torch
from torch import nn

from fuse4seg.leaders.shares import Shares


def test_the_image_lies_between_its_sources(sources: Callable[..., torch.Tensor]) -> None:
    images = sources(2, 2, 9, 14)
    image = Shares(2, conv_op=nn.Conv2d, strides=[1, 2], width=4, similarity=1.0)(images).image
    assert (image >= images.amin(dim=1, keepdim=True) - 1e-6).all()
    assert (image <= images.amax(dim=1, keepdim=True) + 1e-6).all()


def test_losses_fall_in_training(fusion_step: Callable, sources: Callable[..., torch.Tensor]) -> None:
    step, batch = fusion_step("shares", "leader.rate=0.01"), sources(2, 2, 16, 16)
    losses = [step(batch)["fusion"] for _ in range(12)]
    assert losses[-1] < losses[0]

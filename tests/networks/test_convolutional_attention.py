"""Attention of convolutional networks: each formula by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate
from scipy.special import expit
from torch import nn

from fuse4seg.networks.convolutional_attention import AttentionGate, ChannelAttention, SpatialAttention

Images = Callable[..., torch.Tensor]


class TestChannelAttention:
    def test_weighs_channels_by_mean_and_maximum(self, random_images: Images) -> None:
        attention, features = ChannelAttention(32), random_images(2, 32, 5, 4) - 0.5
        narrow, wide = (attention.weigh[index].weight.detach().flatten(1).numpy() for index in (0, 2))
        values = features.flatten(2).numpy()
        sums = sum(np.maximum(seen @ narrow.T, 0) @ wide.T for seen in (values.mean(axis=2), values.max(axis=2)))
        expected = features * torch.from_numpy(expit(sums))[..., None, None]
        torch.testing.assert_close(attention(features), expected, rtol=1e-4, atol=1e-6)


class TestSpatialAttention:
    def test_weighs_places_by_mean_and_maximum_around_them(self, random_images: Images) -> None:
        attention, features = SpatialAttention(), random_images(1, 3, 9, 8) - 0.5
        kernels = attention.weigh.weight.detach()[0].numpy()
        values = features[0].numpy()
        sums = sum(correlate(seen, kernel, mode="constant")
                   for seen, kernel in zip((values.mean(axis=0), values.max(axis=0)), kernels, strict=True))
        torch.testing.assert_close(attention(features), features * torch.from_numpy(expit(sums)), rtol=1e-4, atol=1e-6)


class TestAttentionGate:
    def test_passes_what_the_formula_says(self, random_images: Images) -> None:
        gate, features, skip = AttentionGate(4, 3).eval(), random_images(1, 4, 5, 6), random_images(1, 4, 5, 6, seed=1)
        last = gate.weigh[1]

        def sent(part: nn.Sequential, images: torch.Tensor) -> torch.Tensor:
            return torch.einsum("oi,bihw->bohw", part[0].weight.flatten(1), images) + part[0].bias[:, None, None]

        # Before training batch normalisation only divides by the root of 1 + 1e-5.
        scale = (1 + 1e-5) ** -0.5
        summed = (scale * (sent(gate.asked, features) + sent(gate.offered, skip))).relu()
        score = scale * (torch.einsum("i,bihw->bhw", last.weight.flatten(), summed).unsqueeze(1) + last.bias)
        torch.testing.assert_close(gate(features, skip), skip * score.sigmoid())

    @pytest.mark.parametrize(("kernel", "reach"), [(1, 0), (3, 1)])
    def test_looks_as_far_as_its_kernel(self, kernel: int, reach: int, random_images: Images) -> None:
        gate, features = AttentionGate(8, 4, kernel=kernel, groups=4).eval(), random_images(1, 8, 9, 9)
        for part in (gate.asked, gate.offered):  # so that no ReLU hides what it sees
            nn.init.constant_(part[0].bias, 5.0)
        other = features.clone()
        other[..., 4, 4] += 1
        skip = torch.ones_like(features)
        changed = (gate(other, skip) - gate(features, skip)).detach().abs().amax(dim=1)[0].nonzero()
        assert int((changed - 4).abs().max()) == reach
        assert len(changed) == (2 * reach + 1) ** 2

"""The adapter: identity at the start, and by hand afterwards."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from fuse4seg.networks.adapter import Adapter

Images = Callable[..., torch.Tensor]
CONV_OP = {2: nn.Conv2d, 3: nn.Conv3d}


class TestAdapter:
    @pytest.mark.parametrize("size", [(8, 8), (5, 1), (4, 6, 4), (1, 3, 5)])
    def test_starts_as_the_identity(self, size: tuple[int, ...], random_images: Images) -> None:
        features = random_images(2, 8, *size)
        assert torch.equal(Adapter(CONV_OP[len(size)], 8)(features), features)

    @pytest.mark.parametrize("axes", [2, 3])
    def test_with_an_open_gate_scales_each_channel_of_each_case(self, axes: int, random_images: Images) -> None:
        adapter = Adapter(CONV_OP[axes], 4)
        squeeze, _, expand, _ = adapter.gate
        nn.init.ones_(squeeze.weight)
        nn.init.zeros_(squeeze.bias)
        with torch.no_grad():
            expand.weight.view(-1).copy_(torch.tensor([0.0, 1.0, -1.0, 0.5]))
        features = random_images(2, 4, *[6] * axes)

        squeezed = features.flatten(2).mean(dim=2).sum(dim=1, keepdim=True)  # positive, so LeakyReLU lets it through
        scales = 1 + torch.tanh(squeezed * torch.tensor([[0.0, 1.0, -1.0, 0.5]]))
        torch.testing.assert_close(adapter(features), features * scales.view(2, 4, *[1] * axes))

    def test_adds_what_comes_back_from_half_the_resolution(self) -> None:
        adapter = Adapter(nn.Conv2d, 1)
        with torch.no_grad():
            nn.init.zeros_(adapter.down[0].weight)[..., 1, 1] = 2.0  # the voxel under the kernel's middle, doubled
            nn.init.zeros_(adapter.down[0].bias)
            adapter.up.weight.copy_(torch.tensor([[[[1.0, 10.0], [100.0, 1000.0]]]]))
        features = torch.zeros(1, 1, 4, 5)
        features[0, 0, 2, 2], features[0, 0, 0, 4], features[0, 0, 1, 1] = 3.0, 1.0, 5.0

        expected = features.clone()
        expected[0, 0, 2:, 2:4] += 6 * torch.tensor([[1.0, 10.0], [100.0, 1000.0]])
        expected[0, 0, :2, 4] += 2 * torch.tensor([1.0, 100.0])  # an odd axis loses what lies beyond its end
        torch.testing.assert_close(adapter(features), expected)

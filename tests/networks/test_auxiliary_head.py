"""The auxiliary head: shapes in 2D and 3D, and a gradient for what it reads."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fuse4seg.networks.auxiliary_head import AuxiliaryHead


class TestAuxiliaryHead:
    @pytest.mark.parametrize(("conv_op", "size"), [(nn.Conv2d, (6, 5)), (nn.Conv3d, (4, 6, 5))])
    def test_gives_one_logit_per_class_at_the_resolution_of_the_features(self, conv_op: type[nn.Module],
                                                                         size: tuple[int, ...]) -> None:
        head = AuxiliaryHead(conv_op, 8, classes=3)
        assert head(torch.randn(2, 8, *size)).shape == (2, 3, *size)

    def test_learns_a_threshold_on_a_feature(self) -> None:
        torch.manual_seed(0)
        features = torch.randn(2, 4, 8, 8)
        labels = (features[:, 0] > 0).long()
        head = AuxiliaryHead(nn.Conv2d, 4, classes=2)
        optimiser = torch.optim.Adam(head.parameters(), 0.05)
        for _ in range(100):
            optimiser.zero_grad()
            nn.functional.cross_entropy(head(features), labels).backward()
            optimiser.step()
        assert (head(features).argmax(dim=1) == labels).float().mean() > 0.95

    def test_sends_a_gradient_to_the_features(self) -> None:
        features = torch.randn(1, 4, 8, 8, requires_grad=True)
        AuxiliaryHead(nn.Conv2d, 4, classes=2)(features).square().mean().backward()
        assert (features.grad != 0).all()

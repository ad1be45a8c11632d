"""The context path: shapes, reach, and that it looks at more than the surroundings."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fuse4seg.networks.context import ContextPath


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


class TestContextPath:
    @pytest.mark.parametrize(("conv_op", "size", "strides"), [
        (nn.Conv2d, (8, 12), [(2, 2), (2, 2)]), (nn.Conv2d, (7, 5), [(2, 2), (2, 1)]), (nn.Conv2d, (1, 1), [(2, 2)]),
        (nn.Conv2d, (8, 12), []), (nn.Conv3d, (3, 8, 6), [(1, 2, 2), (2, 2, 2)]),
    ])
    def test_gives_features_of_the_same_shape(self, conv_op: type[nn.Module], size: tuple[int, ...],
                                              strides: list[tuple[int, ...]]) -> None:
        features = torch.randn(2, 4, *size)
        found = ContextPath(conv_op, 4, strides=strides)(features)
        assert found.shape == features.shape
        assert found.isfinite().all()

    def test_a_corner_bears_on_the_opposite_one(self) -> None:
        features = torch.randn(1, 4, 32, 32, requires_grad=True)
        ContextPath(nn.Conv2d, 4, strides=[(2, 2)] * 3)(features)[..., 31, 31].sum().backward()
        assert features.grad[..., 0, 0].abs().sum() > 0

    def test_samples_do_not_bear_on_each_other(self) -> None:
        path, features = ContextPath(nn.Conv2d, 4, strides=[(2, 2)]), torch.randn(3, 4, 8, 8)
        torch.testing.assert_close(path(features)[1:2], path(features[1:2]))

    def test_its_normalisation_is_nnu_net_s(self) -> None:
        block = ContextPath(nn.Conv2d, 4, strides=[]).first[0]
        features = torch.randn(2, 4, 8, 8)
        expected = nn.functional.leaky_relu(nn.InstanceNorm2d(4, affine=True)(block[0](features)), 0.01)
        torch.testing.assert_close(block(features), expected)

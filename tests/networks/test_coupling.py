"""Affine coupling: it can be undone, it does something, and it can learn."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fuse4seg.networks.coupling import AffineCoupling


def coupling(axes: int, channels: int, *, split: int | None = None, seed: int = 0) -> AffineCoupling:
    torch.manual_seed(seed)
    return AffineCoupling(nn.Conv2d if axes == 2 else nn.Conv3d, channels, split=split)


class TestAffineCoupling:
    @given(st.sampled_from([2, 3]), st.integers(2, 7), st.data())
    @settings(deadline=None, max_examples=30)
    def test_is_undone_by_its_inverse(self, axes: int, channels: int, data: st.DataObject) -> None:
        split = data.draw(st.none() | st.integers(1, channels - 1))
        block = coupling(axes, channels, split=split, seed=data.draw(st.integers(0, 9)))
        features = torch.randn(2, channels, *[4] * axes)
        with torch.no_grad():
            torch.testing.assert_close(block.inverse(block(features)), features, atol=1e-5, rtol=0)
            torch.testing.assert_close(block(block.inverse(features)), features, atol=1e-5, rtol=0)

    def test_two_with_strong_weights_are_undone_in_reverse_order(self) -> None:
        first, second = coupling(2, 6, seed=1), coupling(2, 6, seed=2)
        for module in [*first.modules(), *second.modules()]:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=0.01)
        features = torch.randn(1, 6, 8, 8)
        with torch.no_grad():
            restored = first.inverse(second.inverse(second(first(features))))
        torch.testing.assert_close(restored, features, atol=1e-4, rtol=0)

    def test_follows_its_formula(self) -> None:
        block, features = coupling(2, 5, split=2), torch.randn(1, 5, 4, 4)
        a, b = features[:, :2], features[:, 2:]
        moved = a + block.shift(b)
        rho, eta = block.scale_and_shift(moved)[:, :3], block.scale_and_shift(moved)[:, 3:]
        expected = torch.cat([b * torch.exp(torch.tanh(rho)) + eta, moved], dim=1)
        torch.testing.assert_close(block(features), expected)

    @pytest.mark.parametrize("axes", [2, 3])
    def test_changes_its_input(self, axes: int) -> None:
        features = torch.randn(1, 4, *[6] * axes)
        assert (coupling(axes, 4)(features) - features).abs().mean() > 0.1

    @pytest.mark.parametrize("split", [None, 1, 3])
    def test_sends_a_gradient_to_every_parameter(self, split: int | None) -> None:
        block = coupling(2, 4, split=split)
        block(torch.randn(2, 4, 6, 6)).pow(2).sum().backward()
        assert all(parameter.grad.abs().max() > 0 for parameter in block.parameters())

    @pytest.mark.parametrize("split", [0, 4, 5, -1])
    def test_refuses_a_split_that_leaves_one_part_empty(self, split: int) -> None:
        with pytest.raises(ValueError, match=r"1\.\.3"):
            coupling(2, 4, split=split)

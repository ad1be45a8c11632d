"""The learning rate: nnU-Net's own, so that neither level outlives the other."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler

from fuse4seg.training.schedule import polynomial_rate, set_rate


class TestPolynomialRate:
    @pytest.mark.parametrize("epochs", [1, 2, 7, 140])
    def test_is_nnu_net_s_own(self, epochs: int) -> None:
        optimiser = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.3)
        stock = PolyLRScheduler(optimiser, 0.3, epochs)
        for epoch in range(epochs):
            stock.step(epoch)
            assert polynomial_rate(0.3, epoch, epochs=epochs) == pytest.approx(optimiser.param_groups[0]["lr"])

    @given(st.integers(2, 1000))
    def test_falls_from_the_start_towards_0(self, epochs: int) -> None:
        rates = [polynomial_rate(0.5, epoch, epochs=epochs) for epoch in range(epochs)]
        assert rates[0] == 0.5
        assert all(before > after > 0 for before, after in pairwise(rates))
        assert rates[-1] == pytest.approx(0.5 * epochs**-0.9)


class TestSetRate:
    def test_gives_every_group_the_same_rate(self) -> None:
        groups = [{"params": [torch.nn.Parameter(torch.ones(1))], "lr": rate} for rate in (0.1, 0.2)]
        optimiser = torch.optim.SGD(groups)
        set_rate(optimiser, 0.05)
        assert [group["lr"] for group in optimiser.param_groups] == [0.05, 0.05]
        assert optimiser.param_groups[0]["params"][0].item() == 1

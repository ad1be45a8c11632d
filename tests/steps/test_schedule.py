"""Learning rates: nnU-Net's own, the paper's, and a constant one."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler

from fuse4seg.recipes import recipe
from fuse4seg.steps.schedule import SCHEDULES, Schedule


def rates_of(shape: str, start: float, epochs: int) -> list[float]:
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=9.0)
    schedule, rates = Schedule([optimiser], start=start, epochs=epochs, shape=shape), []
    for epoch in range(epochs):
        schedule.step(epoch)
        rates.append(optimiser.param_groups[0]["lr"])
    return rates


class TestSchedule:
    @pytest.mark.parametrize("epochs", [1, 2, 7, 140])
    def test_polynomial_is_nnu_net_s_own_to_the_bit(self, epochs: int) -> None:
        optimiser = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.3)
        stock, expected = PolyLRScheduler(optimiser, 0.3, epochs), []
        for epoch in range(epochs):
            stock.step(epoch)
            expected.append(optimiser.param_groups[0]["lr"])
        assert rates_of("polynomial", 0.3, epochs) == expected

    @given(st.integers(2, 1000))
    def test_polynomial_falls_from_the_start_towards_0(self, epochs: int) -> None:
        rates = rates_of("polynomial", 0.5, epochs)
        assert rates[0] == 0.5
        assert all(before > after > 0 for before, after in pairwise(rates))
        assert rates[-1] == pytest.approx(0.5 * epochs**-0.9)

    def test_halved_is_the_paper_s(self) -> None:
        rates = rates_of("halved", 1e-4, 140)
        assert [rates[epoch] for epoch in (0, 19, 20, 40, 139)] == pytest.approx([1e-4, 1e-4, 5e-5, 2.5e-5, 1e-4 / 64])

    def test_constant_stays(self) -> None:
        assert set(rates_of("constant", 0.2, 5)) == {0.2}

    def test_gives_every_optimiser_and_group_the_same_rate(self) -> None:
        groups = [{"params": [torch.nn.Parameter(torch.ones(1))], "lr": rate} for rate in (0.1, 0.2)]
        first, second = torch.optim.SGD(groups), torch.optim.Adam([torch.nn.Parameter(torch.ones(1))])
        Schedule([first, second], start=0.05, epochs=3, shape="constant").step(1)
        assert [group["lr"] for one in (first, second) for group in one.param_groups] == [0.05] * 3
        assert first.param_groups[0]["params"][0].item() == 1

    def test_has_every_shape_that_recipes_know(self) -> None:
        assert tuple(SCHEDULES) == recipe.SCHEDULES

"""The queue of cases on paper: its simulation against closed forms, and laws that hold whatever the times are."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st


@pytest.fixture(scope="module")
def scale(load_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
    return load_benchmark("scale")


class TestSimulate:
    def test_of_one_case_is_its_three_steps(self, scale: ModuleType) -> None:
        assert scale.simulate([scale.Seconds(2, 3, 4)], workers=5, gpus=5) == 9

    @pytest.mark.parametrize(("workers", "gpus", "bound"), [(1, 1, 5.0), (2, 1, 2.5), (8, 1, 2.0), (8, 2, 1.0), (3, 4, 5 / 3)])
    def test_of_many_goes_at_the_pace_of_the_narrowest(self, scale: ModuleType, workers: int, gpus: int, bound: float) -> None:
        """A core does 4 + 1 seconds of a case, a GPU 2."""
        cases = [scale.Seconds(4, 2, 1)] * 2000
        assert scale.simulate(cases, workers=workers, gpus=gpus) / 2000 == pytest.approx(bound, rel=0.01)

    def test_that_holds_one_case_at_a_time_is_slower(self, scale: ModuleType) -> None:
        cases = [scale.Seconds(1, 1, 0)] * 100
        assert scale.simulate(cases, workers=1, gpus=1) == 101
        assert scale.simulate(cases, workers=4, gpus=1, waiting=1) == pytest.approx(101)
        assert scale.simulate(cases, workers=4, gpus=4, waiting=4) == pytest.approx(26, abs=1)

    @given(times=st.lists(st.tuples(*[st.floats(0.01, 10)] * 3), min_size=1, max_size=30), workers=st.integers(1, 4),
           gpus=st.integers(1, 3))
    def test_lies_between_no_waiting_and_no_help(self, scale: ModuleType, times: list[tuple[float, float, float]], workers: int,
                                                 gpus: int) -> None:
        cases = [scale.Seconds(*case) for case in times]
        ended = scale.simulate(cases, workers=workers, gpus=gpus)
        cpu, gpu = sum(case.prepare + case.export for case in cases), sum(case.network for case in cases)
        least = max(cpu / workers, gpu / gpus, max(map(sum, cases)))
        assert least * (1 - 1e-9) <= ended <= (cpu + gpu) * (1 + 1e-9)

"""Memory on lines against counted memory."""

from __future__ import annotations

from typing import Any

import pytest

from fuse4seg.planning import memory_model
from fuse4seg.planning.memory_model import CLOSE, FAR, MemoryModel
from fuse4seg.planning.step_memory import Training, count_memory
from fuse4seg.plans import NETWORK

TRAINING = Training(2, 3)


@pytest.fixture
def planned(tiny_follower: dict[str, Any]) -> dict[str, Any]:
    shared = {"strides": tiny_follower["arch_kwargs"]["strides"], "conv_op": tiny_follower["arch_kwargs"]["conv_op"]}
    return {"network_class_name": NETWORK, "_kw_requires_import": ["conv_op"],
            "arch_kwargs": {**shared, "windows": [[-2.0, 2.0]] * 2, "follower": tiny_follower}}


def total(planned: dict[str, Any], patch: tuple[int, int], batch: int) -> int:
    return count_memory(planned, patch, batch, TRAINING).total


class TestEstimate:
    @pytest.mark.parametrize(("patch", "batch"), [((64, 48), 2), ((32, 48), 8), ((96, 96), 6)])
    def test_is_close_to_the_count(self, planned: dict[str, Any], patch: tuple[int, int], batch: int) -> None:
        model = MemoryModel(TRAINING)
        model.estimate(planned, (64, 48), 2, limit=1)
        assert model.estimate(planned, patch, batch, limit=1e15) == pytest.approx(total(planned, patch, batch), rel=CLOSE)

    def test_near_the_limit_is_the_count(self, planned: dict[str, Any]) -> None:
        model, counted = MemoryModel(TRAINING), total(planned, (96, 96), 4)
        model.estimate(planned, (64, 48), 2, limit=1)
        assert model.estimate(planned, (96, 96), 4, limit=counted * 1.01) == counted

    def test_far_from_the_limit_costs_no_count_of_a_like_network(self, planned: dict[str, Any], tiny_follower: dict[str, Any],
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
        model = MemoryModel(TRAINING)
        known = model.estimate(planned, (64, 48), 2, limit=1)
        monkeypatch.setattr(memory_model, "_count", None)
        tiny_follower["arch_kwargs"]["features_per_stage"] = [4, 8, 16]
        assert model.estimate(planned, (64, 48), 2, limit=known * (1 + 2 * FAR)) == known


class TestLargestBatch:
    @pytest.mark.parametrize("batch", [2, 6, 10])
    def test_fills_the_limit(self, planned: dict[str, Any], batch: int) -> None:
        limit = total(planned, (48, 64), batch) + 1
        assert MemoryModel(TRAINING).largest_batch(planned, (48, 64), limit=limit, cap=100) == batch
        assert total(planned, (48, 64), batch + 2) > limit

    @pytest.mark.parametrize(("cap", "batch"), [(9, 8), (8, 8), (3, 2), (1, 2)])
    def test_is_even_and_within_the_cap(self, planned: dict[str, Any], cap: int, batch: int) -> None:
        assert MemoryModel(TRAINING).largest_batch(planned, (48, 64), limit=1e12, cap=cap) == batch

    def test_is_two_at_least(self, planned: dict[str, Any]) -> None:
        assert MemoryModel(TRAINING).largest_batch(planned, (48, 64), limit=1, cap=100) == 2


class TestCount:
    def test_does_not_depend_on_the_windows_or_the_type_of_numbers(self, planned: dict[str, Any],
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
        model = MemoryModel(TRAINING)
        counted = model.count(planned, (32, 32), 2)
        monkeypatch.setattr(memory_model, "count_memory", None)
        planned["arch_kwargs"]["windows"] = ((0.0, 1.0), (1.0, 2.0))
        assert model.count(planned, [32, 32], 2) is counted

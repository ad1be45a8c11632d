"""Memory on lines against counted memory."""

from __future__ import annotations

from typing import Any

import pytest

from fuse4seg.planning import memory_model
from fuse4seg.planning.memory_model import FAR, Counts, MemoryModel
from fuse4seg.planning.step_memory import CountedTraining, StepMemory, count_memory
from fuse4seg.plans import NETWORK
from fuse4seg.recipes.reading import read_recipe

TRAINING = CountedTraining(2, 3, read_recipe("fuse4seg"))


@pytest.fixture
def planned(tiny_follower: dict[str, Any]) -> dict[str, Any]:
    shared = {"strides": tiny_follower["arch_kwargs"]["strides"], "conv_op": tiny_follower["arch_kwargs"]["conv_op"]}
    return {"network_class_name": NETWORK, "_kw_requires_import": ["conv_op"],
            "arch_kwargs": {**shared, "windows": [[-2.0, 2.0]] * 2, "follower": tiny_follower,
                            "leader": {"network_class_name": "fuse4seg.leaders.gate.GateLeader", "_kw_requires_import": [],
                                       "arch_kwargs": {}}}}


def total(planned: dict[str, Any], patch: tuple[int, int], batch: int) -> int:
    return count_memory(planned, patch, batch, TRAINING).total


class TestEstimate:
    @pytest.mark.parametrize("counts", [1, 2])
    @pytest.mark.parametrize("share", [0.4, 0.9, 0.99, 1.01, 1.1, 3])
    @pytest.mark.parametrize(("patch", "batch"), [((32, 48), 2), ((96, 96), 6)])
    def test_lies_on_the_same_side_of_the_limit_as_the_count(self, planned: dict[str, Any], patch: tuple[int, int], batch: int,
                                                             share: float, counts: int) -> None:
        model, counted = MemoryModel(TRAINING), total(planned, patch, batch)
        for size in (2, 4)[:counts]:
            model.count(planned, (64, 48), size)
        limit = share * counted
        assert (model.estimate(planned, patch, batch, limit=limit) > limit) == (counted > limit)

    def test_near_the_limit_is_the_count(self, planned: dict[str, Any]) -> None:
        model, counted = MemoryModel(TRAINING), total(planned, (96, 96), 4)
        assert model.estimate(planned, (96, 96), 4, limit=counted * 1.01) == counted

    @pytest.mark.parametrize("share", [1 / (1 + 2 * FAR), 1 + 2 * FAR])
    def test_far_from_the_limit_costs_no_count_of_a_like_network(self, planned: dict[str, Any], tiny_follower: dict[str, Any],
                                                                 share: float, monkeypatch: pytest.MonkeyPatch) -> None:
        model = MemoryModel(TRAINING)
        known = model.count(planned, (64, 48), 2).total
        monkeypatch.setattr(memory_model, "_count", None)
        tiny_follower["arch_kwargs"]["features_per_stage"] = [4, 8, 16]
        assert model.estimate(planned, (64, 48), 2, limit=known * share) == known


class TestCounts:
    """Bounds against closed forms."""

    def test_of_one_count_lie_between_a_line_through_nothing_and_a_level_one(self) -> None:
        counts = Counts()
        counts.add(100, memory := StepMemory(0, 0, 0, 0, 1000))
        assert counts.bounds(50) == (memory.total / 2, memory.total)
        assert counts.bounds(300) == (memory.total, 3 * memory.total)

    def test_of_two_counts_are_the_larger_of_the_stages_lines(self) -> None:
        counts = Counts()
        # Stage 1 takes 10 bytes a voxel, stage 2 takes 600 and 4 a voxel: they meet at 100 voxels.
        for voxels in (50, 200):
            counts.add(voxels, StepMemory(parameters=7, optimisers=0, batch=voxels, stage_1=10 * voxels,
                                          stage_2=600 + 4 * voxels))
        for voxels in (80, 150, 400):
            expected = StepMemory(7, 0, voxels, 10 * voxels, 600 + 4 * voxels).total
            assert counts.bounds(voxels) == (expected, expected)


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

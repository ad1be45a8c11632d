"""A farm, of processes or of a cluster: every case once, errors as they were raised, and dead workers' cases tried again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fuse4seg.errors import FaultyImageError, WorkerDiedError
from fuse4seg.farm.cluster import DaskFarm
from fuse4seg.farm.farm import Farm, Outcome
from fuse4seg.farm.processes import ProcessFarm
from tests.farm.jobs import job


@pytest.fixture(params=["processes", "cluster"])
def farm(request: pytest.FixtureRequest) -> Iterator[Farm]:
    """Two workers."""
    with (ProcessFarm(["cpu", "cpu"]) if request.param == "processes" else
          DaskFarm(request.getfixturevalue("scheduler"))) as made:
        if isinstance(made, DaskFarm):
            made._client.wait_for_workers(2, timeout=120)  # those of another test may have died
        yield made


def outcomes(farm: Farm, place: Path, *items: str) -> dict[str, Outcome]:
    return {outcome.case: outcome for outcome in farm.outcomes(job(place), items, name=lambda item: item)}


class TestFarm:
    def test_does_every_case_with_what_each_worker_made_once(self, farm: Farm, tmp_path: Path) -> None:
        items = [f"slow_{number}" for number in range(6)]
        found = outcomes(farm, tmp_path, *items)
        assert {case: outcome.result[0] for case, outcome in found.items()} == {item: item.upper() for item in items}
        workers = {outcome.result[1] for outcome in found.values()}
        assert len(workers) == 2
        assert os.getpid() not in workers
        assert {path.name for path in tmp_path.iterdir()} == {f"made_{worker}" for worker in workers}

    def test_names_faults_and_those_that_kill_workers_and_does_the_others(self, farm: Farm, tmp_path: Path) -> None:
        found = outcomes(farm, tmp_path, "dies", "a", "faulty", "once", "broken", "lost", "b")
        assert len(found) == 7
        assert [found[case].result[0] for case in ("a", "once", "b")] == ["A", "ONCE", "B"]
        assert type(found["faulty"].failure) is FaultyImageError
        assert str(found["faulty"].failure) == "case faulty: it is constant"
        assert "IndexError: out of range" in str(found["broken"].failure)
        for case in ("dies", "lost"):
            assert type(found[case].failure) is WorkerDiedError
            assert f"while working case {case}" in str(found[case].failure)
            # Dask gives it to two workers each time, unless one of them died of another case.
            died = len(list(tmp_path.glob(f"{case}_died_*")))
            assert died == 2 if isinstance(farm, ProcessFarm) else 2 < died <= 4

    def test_ends_at_once_by_what_every_case_would_meet(self, farm: Farm, tmp_path: Path) -> None:
        with pytest.raises(OSError, match="no space left"):
            outcomes(farm, tmp_path, "full", *(f"slow_{number}" for number in range(50)))

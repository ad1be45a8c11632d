"""A cluster of Dask on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest


@pytest.fixture(scope="package")
def start_cluster() -> Iterator[Callable[..., Any]]:
    """Function that starts a LocalCluster of so many processes, with one thread each, and ends it with the last test."""
    distributed = pytest.importorskip("distributed", reason="clusters need the extra cluster")
    import dask

    with ExitStack() as stack:
        # A case is given up after its second worker, not its fourth; each takes seconds to come back, or minutes where much runs.
        patient = dict.fromkeys(("distributed.comm.timeouts.connect", "distributed.comm.timeouts.tcp"), "300s")
        stack.enter_context(dask.config.set({"distributed.scheduler.allowed-failures": 1, **patient}))

        def start(workers: int, **options: Any) -> Any:
            options = {"threads_per_worker": 1, "processes": True, "dashboard_address": ":0", "silence_logs": 50, **options}
            return stack.enter_context(distributed.LocalCluster(n_workers=workers, **options))

        yield start


@pytest.fixture(scope="package")
def scheduler(start_cluster: Callable[..., Any]) -> str:
    """Address of a cluster with two workers, which come back when they die."""
    return start_cluster(2).scheduler_address

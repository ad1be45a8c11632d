"""A cluster that cannot do the work says so in one line, before work starts."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fuse4seg.errors import OptionError, UnwritableFolderError, WorkerDiedError
from fuse4seg.farm import cluster
from fuse4seg.farm.cluster import DaskFarm
from tests.farm.jobs import die, die_once, job


class TestRefusals:
    def test_of_a_scheduler_that_is_not_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("distributed")
        monkeypatch.setattr(cluster, "ANSWER", 1.0)
        with pytest.raises(OptionError, match=r"^--scheduler: no Dask scheduler answers at tcp:.*:9 \(.*\)\. Start one"):
            DaskFarm("tcp://127.0.0.1:9")

    @pytest.mark.parametrize("address", ["nonsense", "tcp://nowhere", "http://127.0.0.1:9"])
    def test_of_what_is_no_address_before_a_client_is_made(self, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pytest.importorskip("distributed"), "Client", None)
        with pytest.raises(OptionError, match=rf"^--scheduler: no Dask scheduler answers at {address} \(.*\)\. Start one"):
            DaskFarm(address)

    def test_where_dask_is_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(__import__("sys").modules, "distributed", None)
        with pytest.raises(OptionError, match=r"needs Dask\. Install it with pip install 'fuse4seg\[cluster\]'\."):
            DaskFarm("tcp://127.0.0.1:9")

    def test_without_workers(self, start_cluster: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cluster, "ANSWER", 1.0)
        with pytest.raises(OptionError, match=r"has no workers\. Start some with dask worker tcp://.* --nthreads 1\."):
            DaskFarm(start_cluster(0).scheduler_address)

    def test_of_workers_with_several_threads(self, start_cluster: Callable[..., Any]) -> None:
        threads = start_cluster(1, threads_per_worker=2, processes=False)
        with pytest.raises(OptionError, match=r"has 2 threads, .* Start workers with --nthreads 1"):
            DaskFarm(threads.scheduler_address)

    def test_of_workers_of_another_version(self, scheduler: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cluster, "__version__", "0.0.1")
        with pytest.raises(OptionError, match=r"worker tcp://.* has fuse4seg \d.*, and this is 0\.0\.1\. Install the same\."):
            DaskFarm(scheduler)

    def test_of_workers_without_our_code(self, scheduler: str) -> None:
        with DaskFarm(scheduler) as farm, pytest.raises(OptionError, match=r"do the work \(ValueError: .*Install fuse4seg"):
            farm._ask(int, "no number")

    def test_of_paths_that_a_worker_does_not_see(self, scheduler: str, tmp_path: Path) -> None:
        # This process's own view of an open folder: to others it leads elsewhere.
        descriptor = os.open(tmp_path, os.O_RDONLY)
        private = Path(f"/proc/self/fd/{descriptor}")
        try:
            with pytest.raises(OptionError, match=rf"worker tcp://.* cannot use {private}, or finds another one there"):
                DaskFarm(scheduler, reads=[private])
            with pytest.raises(OptionError, match=rf"cannot use {private}, or finds another one there"):
                DaskFarm(scheduler, writes=private / "out")
        finally:
            os.close(descriptor)
        assert not list(tmp_path.iterdir())

    def test_of_a_device_that_they_lack(self, scheduler: str) -> None:
        with pytest.raises(OptionError, match=r"^-device: worker tcp://.* has no mps\. Give -device cpu"):
            DaskFarm(scheduler, device="mps")

    def test_of_an_output_that_cannot_be_written(self, scheduler: str) -> None:
        with pytest.raises(UnwritableFolderError):
            DaskFarm(scheduler, writes=Path("/proc/out"))


class TestWorkersThatDieWhenAsked:
    def test_are_left_out(self, scheduler: str, tmp_path: Path) -> None:
        with DaskFarm(scheduler) as farm:
            farm._client.wait_for_workers(2, timeout=120)
            assert list(farm._ask(die_once, str(tmp_path)).values()) == ["here"]

    def test_are_named_where_none_is_left(self, scheduler: str) -> None:
        with DaskFarm(scheduler) as farm, pytest.raises(OptionError, match="^--scheduler: the workers at tcp.* die when asked"):
            farm._ask(die, "")


class TestAgreement:
    def test_gives_what_all_say(self, scheduler: str) -> None:
        with DaskFarm(scheduler, device=None) as farm:
            assert farm.device == "cpu"
            assert farm.agreed(str.upper, "float32", flag="--precision") == "FLOAT32"

    def test_names_the_flag_that_decides_where_they_differ(self, start_cluster: Callable[..., Any], scheduler: str) -> None:
        with DaskFarm(scheduler) as farm:
            farm._client.wait_for_workers(2)
            with pytest.raises(OptionError, match=r"^--precision: the workers do not agree: \d+ on tcp.*Say it with --precision"):
                farm.agreed(os.getpid, flag="--precision")


class TestResources:
    def test_work_on_a_gpu_goes_to_those_that_offer_one(self, start_cluster: Callable[..., Any], tmp_path: Path,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
        made = start_cluster(1, resources={"gpu": 1})
        made.sync(made._correct_state)
        # As if it had one.
        monkeypatch.setattr(cluster, "look", has_cuda)
        with DaskFarm(made.scheduler_address, device="cuda") as farm:
            assert farm.room() == 1
            asked = {}
            monkeypatch.setattr(farm._client, "submit", lambda *_, resources, **__: asked.update(resources or {}))
            work = job(tmp_path)
            farm.submit(type(work)(work.make, work.work, work.doing, on_gpu=True), b"", "a")
            assert asked == {"gpu": 1}
            asked.clear()
            farm.submit(work, b"", "a")
            assert asked == {}


def has_cuda(reads: list[str], probe: str | None) -> tuple[str, list[str], str | None]:
    """What a worker with a GPU would say."""
    version, kinds, hidden = cluster.look(reads, probe)
    return version, ["cuda", *kinds], hidden


class TestLostCluster:
    def test_ends_in_one_line(self, start_cluster: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cluster, "NO_WORKERS", 1.0)
        made = start_cluster(1)
        with DaskFarm(made.scheduler_address) as farm:
            running = farm.outcomes(job(tmp_path), ["a", "slow_1", "slow_2", "slow_3"], name=lambda item: item)
            assert next(running).result[0] == "A"
            made.scale(0)
            with pytest.raises(WorkerDiedError, match=r"while working.* no worker is left\. Start it again"):
                list(running)

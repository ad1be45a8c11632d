"""Memory and cores: of the machine, of control groups of both versions, and what is said when there is too little."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch

from fuse4seg import machine as module
from fuse4seg.errors import DeviceUnavailableError, NotEnoughMemoryError
from fuse4seg.machine import choose_device, free_memory, free_shared_memory, require_memory, require_shared_memory, usable_cores

GB = 10**9


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of a machine's proc and cgroup, with 8 and 2 million kilobytes of memory and swap free, and no groups."""
    monkeypatch.setattr(module, "PROCESS", tmp_path / "proc")
    monkeypatch.setattr(module, "GROUPS", tmp_path / "cgroup")
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 16000000 kB\nMemAvailable:  8000000 kB\nSwapFree: 2000000 kB\n")
    return tmp_path


def make_group(folder: Path, names: tuple[str, str], limit: str, *, used: int, cache: str) -> None:
    folder.mkdir(parents=True)
    for name, content in zip((*names, "memory.stat"), (limit, used, f"anon 5\n{cache} {GB}"), strict=True):
        (folder / name).write_text(f"{content}\n")


class TestFreeMemory:
    def test_is_the_machine_s_where_nothing_limits_it(self, machine: Path) -> None:
        assert free_memory() == 10_000_000 * 1024

    @pytest.mark.parametrize(("entry", "folder", "names", "cache"), [
        ("0::/job/step", "job/step", ("memory.max", "memory.current"), "inactive_file"),
        ("4:memory:/job/step", "memory/job/step", ("memory.limit_in_bytes", "memory.usage_in_bytes"), "total_inactive_file"),
        # In a container, the path is that of the host.
        ("0::/docker/123", ".", ("memory.max", "memory.current"), "inactive_file")])
    def test_is_what_the_group_s_limit_leaves_and_its_file_cache(self, machine: Path, entry: str, folder: str,
                                                                 names: tuple[str, str], cache: str) -> None:
        (machine / "proc" / "self" / "cgroup").write_text(f"9:pids:/elsewhere\n{entry}\n")
        make_group(machine / "cgroup" / folder, names, str(6 * GB), used=4 * GB, cache=cache)
        assert free_memory() == 3 * GB

    def test_is_that_of_the_tightest_group_above(self, machine: Path) -> None:
        (machine / "proc" / "self" / "cgroup").write_text("0::/job/step\n")
        names = ("memory.max", "memory.current")
        make_group(machine / "cgroup" / "job" / "step", names, "max", used=GB, cache="inactive_file")
        for name, content in zip(names, (5 * GB, 3 * GB), strict=True):
            (machine / "cgroup" / "job" / name).write_text(str(content))
        (machine / "cgroup" / "job" / "memory.stat").write_text("anon 1\n")
        assert free_memory() == 2 * GB

    def test_is_unknown_on_other_systems(self, machine: Path) -> None:
        shutil.rmtree(machine / "proc")
        assert free_memory() is None
        require_memory(10**18, task="anything", mend="")

    def test_is_known_here(self) -> None:
        assert Path("/proc/meminfo").exists() == (free_memory() is not None)


class TestUsableCores:
    @pytest.fixture
    def of_eight(self, machine: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Eight cores that the process may run on."""
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
        return machine

    def test_are_those_that_the_process_may_run_on(self, of_eight: Path) -> None:
        assert usable_cores() == 8

    @pytest.mark.parametrize(("quota", "expected"), [("300000 100000", 3), ("250000 100000", 2), ("50000 100000", 1),
                                                     ("9900000 100000", 8), ("max 100000", 8), ("nonsense", 8)])
    def test_are_what_a_group_s_share_of_time_comes_to(self, of_eight: Path, quota: str, expected: int) -> None:
        (of_eight / "proc" / "self" / "cgroup").write_text("0::/job/step\n")
        (of_eight / "cgroup" / "job").mkdir(parents=True)
        (of_eight / "cgroup" / "job" / "cpu.max").write_text(f"{quota}\n")
        assert usable_cores() == expected

    @pytest.mark.parametrize(("quota", "expected"), [("200000", 2), ("-1", 8)])
    def test_know_the_first_version_of_groups(self, of_eight: Path, quota: str, expected: int) -> None:
        (of_eight / "proc" / "self" / "cgroup").write_text("5:memory:/job\n4:cpu,cpuacct:/job\n")
        folder = of_eight / "cgroup" / "cpu" / "job"
        folder.mkdir(parents=True)
        for name, value in (("quota", quota), ("period", "100000")):
            (folder / f"cpu.cfs_{name}_us").write_text(value)
        assert usable_cores() == expected

    def test_are_known_here(self) -> None:
        assert 1 <= usable_cores() <= (os.cpu_count() or 1)


class TestRequireMemory:
    def test_lets_pass_what_just_fits(self, machine: Path) -> None:
        require_memory(10_000_000 * 1024, task="training", mend="")

    def test_says_what_is_needed_what_is_free_and_what_would_help(self, machine: Path) -> None:
        with pytest.raises(NotEnoughMemoryError) as caught:
            require_memory(12 * GB, task="training", mend="Use -np 1.")
        assert str(caught.value) == "training needs at least 12 GB of memory, of which 10.2 GB are free. Use -np 1."


class TestSharedMemory:
    def test_is_checked_where_there_is_any(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "SHARED", tmp_path)
        free = free_shared_memory()
        assert free == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.1)
        with pytest.raises(NotEnoughMemoryError, match=f"^batches needs at least .* GB of {tmp_path}, of which .* Give more."):
            require_shared_memory(2 * free + 10**9, task="batches", mend="Give more.")
        monkeypatch.setattr(module, "SHARED", tmp_path / "nowhere")
        require_shared_memory(10**18, task="batches", mend="Give more.")


class TestDevice:
    def test_that_was_named_is_taken(self) -> None:
        assert choose_device("cpu") == torch.device("cpu")

    def test_is_the_cpu_where_there_is_nothing_better(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
        assert choose_device(None) == torch.device("cpu")

    def test_is_a_gpu_where_there_is_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        assert choose_device(None) == torch.device("cuda")
        assert choose_device("cpu") == torch.device("cpu")

    def test_that_is_not_there_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(DeviceUnavailableError, match="-device cuda .* -device cpu"):
            choose_device("cuda")

    @pytest.mark.parametrize(("wanted", "threads"), [(None, usable_cores()), ("1", None)])
    def test_gets_the_machines_threads_unless_the_user_gave_a_number(self, wanted: str | None, threads: int | None,
                                                                     monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        if wanted:
            monkeypatch.setenv("OMP_NUM_THREADS", wanted)
        chosen: list[int] = []
        monkeypatch.setattr(torch, "set_num_threads", chosen.append)
        choose_device("cpu")
        assert chosen == ([threads] if threads else [])

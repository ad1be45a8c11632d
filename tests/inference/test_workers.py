"""Background processes: outcomes in order, errors as they were raised, a dead one known by its case, and how many fit."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from fuse4seg.errors import CaseTooLargeError, FaultyImageError, UnwritableFolderError, WorkerDiedError
from fuse4seg.inference.workers import Workers, fitting_processes


def work(item: str) -> tuple[str, int]:
    """Does what its name says."""
    if item == "faulty":
        raise FaultyImageError(item, "it is constant")
    if item == "large":
        raise MemoryError
    if item == "broken":
        return [][0]
    if item == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    return item, os.getpid()


def outcomes(items: list[str], count: int) -> Iterator[tuple[str, object, object]]:
    with Workers("preparing", count, flag="-npp") as workers:
        yield from workers.map(work, items, name=lambda item: item)


class TestWorkers:
    @pytest.mark.parametrize("count", [0, 1, 2])
    def test_give_outcomes_in_order_with_errors_as_they_were_raised(self, count: int) -> None:
        first, faulty, large, last = outcomes(["first", "faulty", "large", "last"], count)
        assert [first.case, faulty.case, large.case, last.case] == ["first", "faulty", "large", "last"]
        assert first.result[0] == "first"
        assert last.result[0] == "last"
        assert (first.result[1] == os.getpid()) is (count == 0)
        assert type(faulty.failure) is FaultyImageError
        assert str(faulty.failure) == "case faulty: it is constant"
        assert isinstance(large.failure, CaseTooLargeError)

    @pytest.mark.parametrize("count", [0, 1])
    def test_make_any_error_the_fault_of_its_case(self, count: int) -> None:
        first, broken, last = outcomes(["first", "broken", "last"], count)
        assert str(broken.failure).startswith("case broken: it cannot be used (IndexError: list index out of range)")
        assert (first.failure, last.failure) == (None, None)

    def test_that_die_are_known_by_their_case_and_replaced(self) -> None:
        first, dead, last = outcomes(["first", "dies", "last"], 1)
        assert isinstance(dead.failure, WorkerDiedError)
        assert str(dead.failure) == ("a background process died while preparing case dies, most likely for want of memory. "
                                     "Use fewer processes (-npp 0).")
        assert first.result[0] == "first"
        assert last.result[0] == "last"

    def test_work_ahead_of_what_is_asked_for(self) -> None:
        taken: list[str] = []

        def items() -> Iterator[str]:
            for item in ("a", "b", "c", "d"):
                taken.append(item)
                yield item

        with Workers("preparing", 1, flag="-npp") as workers:
            found = workers.map(work, items(), name=str)
            assert next(found).case == "a"
            assert taken == ["a", "b"]
            assert next(found).case == "b"
            assert taken == ["a", "b", "c"]

    def test_in_this_process_take_one_item_at_a_time(self) -> None:
        taken: list[str] = []
        found = Workers("preparing", 0, flag="-npp").map(work, (taken.append(item) or item for item in "ab"), name=str)
        assert next(found).case == "a"
        assert taken == ["a"]

    def test_do_not_outlive_the_process_that_started_them(self) -> None:
        code = ("import time\nfrom concurrent.futures import wait\nfrom os import getpid\n"
                "from fuse4seg.inference.workers import Workers\n"
                "workers = Workers('preparing', 1, flag='-npp')\n"
                "pool = workers._pool(0)\nprint(pool.submit(getpid).result(), flush=True)\ntime.sleep(60)\n")
        run = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        worker = int(run.stdout.readline())
        run.kill()
        run.wait()
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and _is_running(worker):
            time.sleep(0.05)
        assert not _is_running(worker)


def _is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_errors_keep_their_message_on_the_way_to_another_process() -> None:
    error = UnwritableFolderError(Path("out"), "no space")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (UnwritableFolderError, str(error))


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """A million voxels in all."""
    paths = [tmp_path / f"a_000{channel}.nii.gz" for channel in range(2)]
    for path in paths:
        sitk.WriteImage(sitk.GetImageFromArray(np.zeros((50, 100, 100), np.uint8)), str(path))
    return paths


class TestFittingProcesses:
    @pytest.mark.parametrize(("cores", "on_gpu", "expected"), [(1, True, 0), (2, True, 1), (4, True, 2), (16, True, 3),
                                                               (1, False, 0), (2, False, 0), (4, False, 1), (16, False, 1)])
    def test_are_what_cores_allow(self, images: list[Path], cores: int, on_gpu: bool, expected: int) -> None:
        assert fitting_processes(images, cases=10, on_gpu=on_gpu, cores=cores, free=10**12) == expected

    def test_are_what_memory_allows(self, images: list[Path]) -> None:
        """Half a gigabyte each, and 24 bytes a voxel; as many for preparing as for exporting, and the network's own."""
        each = 500_000_000 + 24 * 10**6
        found = [fitting_processes(images, cases=10, on_gpu=True, cores=16, free=number * each) for number in range(9)]
        assert found == [0, 0, 0, 1, 1, 2, 2, 3, 3]

    @pytest.mark.parametrize(("cases", "expected"), [(1, 0), (2, 1), (3, 2), (9, 3)])
    def test_are_fewer_than_cases(self, images: list[Path], cases: int, expected: int) -> None:
        assert fitting_processes(images, cases=cases, on_gpu=True, cores=16, free=10**12) == expected

    def test_do_without_a_header(self, tmp_path: Path) -> None:
        (tmp_path / "a_0000.tif").write_bytes(b"no header")
        assert fitting_processes([tmp_path / "a_0000.tif"], cases=3, on_gpu=True, cores=16, free=10**12) == 2

    def test_are_what_the_job_may_take(self, images: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
        """Whatever limits it, wherever in the tree of control groups."""
        for free, expected in ((None, 0), (10**9, 0), (10**12, 3)):
            monkeypatch.setattr("fuse4seg.inference.workers.free_memory", lambda free=free: free)
            assert fitting_processes(images, cases=10, on_gpu=True, cores=16) == expected

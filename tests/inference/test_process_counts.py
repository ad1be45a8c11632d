"""How many background processes fit: by cores, memory and cases."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from fuse4seg.inference.process_counts import fitting_processes


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
            monkeypatch.setattr("fuse4seg.inference.process_counts.free_memory", lambda free=free: free)
            assert fitting_processes(images, cases=10, on_gpu=True, cores=16) == expected

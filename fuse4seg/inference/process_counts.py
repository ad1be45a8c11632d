"""How many background processes prediction starts when nobody says: what cores, memory and cases allow."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from pathlib import Path

import SimpleITK as sitk

from fuse4seg.machine import free_memory, usable_cores

#: Beside a GPU, which waits for them; a CPU does the network's work itself.
MOST, MOST_ON_CPU = 3, 1
#: Cores below which a CPU has none to spare for them.
CORES_ON_CPU = 4
#: Bytes that a process takes for each voxel of all channels at the worst moment, and for itself.
BYTES_PER_VOXEL, BYTES_PER_PROCESS = 24, 500_000_000


def fitting_processes(images: Sequence[Path], *, cases: int, on_gpu: bool, cores: int | None = None,
                      free: int | None = None) -> int:
    """Processes for preparing, and as many for exporting.

    Args:
        images: Of one of the cases.
        cases: How many there are to predict; a single one has nothing to overlap with.
        on_gpu: Where the network computes.
        cores: To use; None to look.
        free: Bytes of memory; None to look. Where that cannot be known there are no processes beside this one.
    """
    cores = usable_cores() if cores is None else cores
    free = free_memory() or 0 if free is None else free
    if cases < 2 or cores < (2 if on_gpu else CORES_ON_CPU):
        return 0
    # The network's own process holds a case, too.
    of_memory = free // (BYTES_PER_PROCESS + BYTES_PER_VOXEL * _voxels(images)) - 1
    return max(0, min(MOST if on_gpu else MOST_ON_CPU, cores // 2, of_memory // 2, cases - 1))


def _voxels(images: Sequence[Path]) -> int:
    """Of all channels, by the first one's header; 0 where none can be read, as of pictures, which are small."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(images[0]))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return 0
    return prod(reader.GetSize()) * len(images)

"""How much memory a plan may fill: what the user asks for, else what the GPU at hand has to give."""

from __future__ import annotations

from typing import NamedTuple

import torch

from fuse4seg.errors import OptionError

GIGABYTE = 1e9
FLAG = "-gpu_memory_target"
#: Gigabytes of a GPU that no plan fills: CUDA's own context and kernels, and what a desktop takes.
RESERVE = 1.0


class GPU(NamedTuple):
    """A GPU: its name, and its whole and its free memory in gigabytes (1e9 bytes)."""

    name: str
    total: float
    free: float


class MemoryTarget(NamedTuple):
    """Gigabytes that training should fill, and the name of the GPU that this was checked against; None without one."""

    gigabytes: float
    gpu: str | None


def visible_gpu() -> GPU | None:
    """The GPU that training would use; None where CUDA shows none."""
    if not torch.cuda.is_available():
        return None
    free, total = torch.cuda.mem_get_info()
    return GPU(torch.cuda.get_device_name(), total / GIGABYTE, free / GIGABYTE)


def find_target(asked: float | None, *, otherwise: float) -> MemoryTarget:
    """The memory to plan for.

    Args:
        asked: Gigabytes the user wants filled; None for all that the visible GPU has to give.
        otherwise: Gigabytes where nothing was asked for and no GPU is visible.

    Raises:
        OptionError: The visible GPU has less, or other programs have filled it; the message says what would fit.
    """
    gpu = visible_gpu()
    if gpu is None:
        return MemoryTarget(asked or otherwise, None)
    most = gpu.total - RESERVE
    wanted = asked or most
    if wanted > most:
        raise OptionError(FLAG, f"{wanted:g} GB is more than {gpu.name} can give. At most {_down(most)} of its "
                                f"{gpu.total:.1f} GB would fit; to plan for another GPU, hide this one (CUDA_VISIBLE_DEVICES=).")
    if wanted > gpu.free:
        raise OptionError(FLAG, f"{gpu.name} has {gpu.free:.1f} of {gpu.total:.1f} GB free, the rest is taken by other programs. "
                                f"End them, or give at most {_down(gpu.free)}.")
    return MemoryTarget(wanted, gpu.name)


def _down(gigabytes: float) -> str:
    """Rounded so that it still fits."""
    return f"{int(gigabytes * 10) / 10:g}"

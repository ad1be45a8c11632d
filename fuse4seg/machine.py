"""What this process may take of the machine, which a container or a cluster's job may limit: memory, cores, and devices."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, MutableMapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fuse4seg.errors import DeviceUnavailableError, NotEnoughMemoryError, OptionError

if TYPE_CHECKING:
    import torch

#: Where Linux keeps what processes share; 64 MB in a Docker container that was not given more.
SHARED = Path("/dev/shm")
GROUPS, PROCESS = Path("/sys/fs/cgroup"), Path("/proc")
#: Which GPUs a process sees.
VISIBLE = "CUDA_VISIBLE_DEVICES"
#: A group without a limit of its own names one that no machine has.
NO_LIMIT = 1 << 60


def free_memory() -> int | None:
    """Bytes that this process can still get: of the machine, or of the container or job if that has less; None if unknown."""
    try:
        lines = (line.split(":") for line in (PROCESS / "meminfo").read_text().splitlines())
        kilobytes = {name: int(text.split()[0]) for name, text in lines}
        of_machine = 1024 * (kilobytes["MemAvailable"] + kilobytes.get("SwapFree", 0))
    except (OSError, ValueError, KeyError, IndexError):
        return None
    return min([of_machine, *_free_in_groups()])


def free_shared_memory() -> int | None:
    """Bytes that are left in /dev/shm; None where there is none."""
    return shutil.disk_usage(SHARED).free if SHARED.is_dir() else None


def require_memory(needed: int, *, task: str, mend: str) -> None:
    """Make sure that so many bytes are free, where that can be known.

    Args:
        needed: At the very least; a machine on which the task just fits must not be refused.
        task: What needs them.
        mend: What would help.

    Raises:
        NotEnoughMemoryError: They are not.
    """
    free = free_memory()
    if free is not None and free < needed:
        raise NotEnoughMemoryError(task, needed=needed, free=free, where="memory", mend=mend)


def require_shared_memory(needed: int, *, task: str, mend: str) -> None:
    """The same of /dev/shm, through which background processes hand over batches."""
    free = free_shared_memory()
    if free is not None and free < needed:
        raise NotEnoughMemoryError(task, needed=needed, free=free, where=str(SHARED), mend=mend)


def usable_cores() -> int:
    """Cores that this process may use: those it may run on, or as many as its share of time comes to, whole ones."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    shares = [_share(group, version) for group, version in _groups("cpu")]
    return max(1, min([allowed, *(int(share) for share in shares if share is not None)]))


def _groups(controller: str) -> Iterator[tuple[Path, int]]:
    """Linux's control groups that limit this process, from its own to the top, each with the version of its files."""
    try:
        entries = [line.split(":", 2) for line in (PROCESS / "self" / "cgroup").read_text().splitlines()]
    except OSError:
        return
    for _, controllers, path in entries:
        if controllers and controller not in controllers.split(","):
            continue
        top, version = (GROUPS / controller, 1) if controllers else (GROUPS, 2)
        # In a container, the path is the host's, and only the top is there.
        folder = top / path.strip("/")
        yield from ((group, version) for group in (folder, *folder.parents) if group.is_relative_to(top))


def _share(group: Path, version: int) -> float | None:
    """Cores' worth of time that one group gives; None where it has no limit."""
    try:
        quota, period = ((group / "cpu.max").read_text().split() if version == 2 else
                         [(group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")])
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):  # not there, or "max"
        return None


def _free_in_groups() -> Iterator[int]:
    """What is left of each limit that control groups set."""
    files = {1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
             2: ("memory.max", "memory.current", "inactive_file")}
    for group, version in _groups("memory"):
        if (left := _left(group, *files[version])) is not None:
            yield left


def _left(group: Path, limit: str, used: str, cache: str) -> int | None:
    """Bytes left in one group; its file cache gives way. None where it has no limit."""
    try:
        most = int((group / limit).read_text())
        statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return None if most >= NO_LIMIT else most - int((group / used).read_text()) + int(statistics.get(cache, 0))
    except (OSError, ValueError):  # not there, or "max"
        return None


def choose_device(wanted: str | None) -> torch.device:
    """The device a user named, or the best one here; CPU threads are set to fit, unless OMP_NUM_THREADS says how many.

    Raises:
        DeviceUnavailableError: It is not on this machine.
    """
    import torch

    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    name = wanted or next(kind for kind, here in available.items() if here)
    if not available.get(name, False):
        raise DeviceUnavailableError(name)
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(usable_cores() if name == "cpu" else 1)
    return torch.device(name)


def require_devices(names: Sequence[str], *, flag: str = "--devices") -> list[str]:
    """Make sure that devices are on this machine.

    Args:
        names: "cpu", "mps", "cuda", or "cuda:1" by its number.
        flag: That they came by.

    Raises:
        DeviceUnavailableError: One is not.
        OptionError: One is no device's name, or they are not all of one kind.
    """
    import torch

    for name in names:
        kind, colon, number = name.partition(":")
        if kind not in ("cuda", "cpu", "mps") or colon and not (kind == "cuda" and number.isdecimal()):
            raise OptionError(flag, f"{name} is no device. Name cpu, mps, cuda, or cuda:0, cuda:1, ...")
        choose_device(kind)
        if number and int(number) >= torch.cuda.device_count():
            raise DeviceUnavailableError(name)
    if len({name.partition(":")[0] for name in names}) > 1:
        raise OptionError(flag, f"{' '.join(names)} are of several kinds, whose results differ. Name devices of one kind.")
    return list(names)


def see_only(device: str, environment: MutableMapping[str, str] = os.environ) -> None:
    """Make a device such as "cuda:1" the only one that processes started with an environment see, if it has a number."""
    _, _, number = device.partition(":")
    if number:
        # What the user sees may be some of the machine's, in another order.
        visible = environment.get(VISIBLE)
        environment[VISIBLE] = visible.split(",")[int(number)] if visible else number


def cores_of_each(devices: Sequence[str]) -> int:
    """Cores for each of several processes that compute on these devices; where a GPU computes, one is enough."""
    return max(1, usable_cores() // len(devices)) if devices[0] == "cpu" else 1

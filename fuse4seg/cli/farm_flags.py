"""Flags that share cases out among several devices of this machine, or the workers of a cluster."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fuse4seg.errors import OptionError

if TYPE_CHECKING:
    from fuse4seg.farm.farm import Farm


def add_scheduler_flag(parser: argparse.ArgumentParser) -> None:
    """--scheduler, as all commands have it whose cases a cluster can work on."""
    parser.add_argument("--scheduler", metavar="ADDRESS",
                        help="of a Dask scheduler, as tcp://HOST:8786, whose workers do the cases; needs shared storage and "
                             "the extra cluster")


def add_devices_flag(parser: argparse.ArgumentParser, *, what: str) -> None:
    """--devices, one process for each."""
    parser.add_argument("--devices", nargs="+", metavar="DEVICE",
                        help=f"cpu, cuda, cuda:0, cuda:1, ...: {what}; name one twice for two at a time")


def with_absolute_paths(options: argparse.Namespace) -> argparse.Namespace:
    """The same options, whose paths lead to the same places from any folder: workers have their own."""
    def absolute(value: Any) -> Any:
        if isinstance(value, list):
            return [absolute(entry) for entry in value]
        return value.absolute() if isinstance(value, Path) else value

    return argparse.Namespace(**{name: absolute(value) for name, value in vars(options).items()})


def farm_of(options: argparse.Namespace, *, reads: Iterable[Path], writes: Path,
            device: str | None) -> AbstractContextManager[Farm | None]:
    """The workers that --devices or --scheduler name; None without either.

    Args:
        options: Of the command.
        reads: What workers must see.
        writes: Where output goes.
        device: Kind that was asked for; None for the best one, "" where the work needs none.

    Raises:
        OptionError: What is given does not go together, or workers cannot do the work.
        DeviceUnavailableError: A device is not there.
    """
    devices, scheduler = getattr(options, "devices", None), options.scheduler
    if devices is None and scheduler is None:
        return nullcontext()
    from fuse4seg.farm.cluster import DaskFarm
    from fuse4seg.farm.processes import ProcessFarm
    from fuse4seg.machine import require_devices

    for flag, name in (("-npp", "npp"), ("-nps", "nps")):
        if getattr(options, name, None) is not None:
            raise OptionError(flag, "is of one process that predicts: each worker prepares and exports its own cases. Leave it "
                                    "out.")
    if devices is None:
        return DaskFarm(scheduler, reads=reads, writes=writes, device=device)
    if scheduler is not None or device is not None:
        raise OptionError("--devices", "says where to compute. Leave out --scheduler and -device.")
    return ProcessFarm(require_devices(devices))

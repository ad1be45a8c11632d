"""Ranks for tests: forked processes that train together on the CPU, without importing everything again."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

StartProcess = Callable[[Callable[[], int], Path], Any]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def start_ranks(start_process: StartProcess, work: Callable[[], int], count: int, folder: Path) -> list[Any]:
    """Processes that find one another by torchrun's variables; rank r's output goes to ``folder``/rank_r.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()

    def of(rank: int) -> Callable[[], int]:
        def begin() -> int:
            for name, value in (("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", count), ("LOCAL_WORLD_SIZE", count),
                                ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", port)):
                os.environ[name] = str(value)
            return work()
        return begin

    return [start_process(of(rank) if count > 1 else work, folder / f"rank_{rank}.txt") for rank in range(count)]


def results_of_ranks(start_process: StartProcess, work: Callable[[], Any], count: int, folder: Path) -> list[Any]:
    """What ``work`` gives on each rank of a gloo group."""
    import torch

    def meet_and_work() -> int:
        from fuse4seg.training.distributed import joined

        with joined("cpu"):
            torch.save(work(), folder / f"result_{os.environ.get('RANK', '0')}")
        return 0

    ranks = start_ranks(start_process, meet_and_work, count, folder)
    try:
        for number, rank in enumerate(ranks):
            assert rank.wait(120) == 0, (folder / f"rank_{number}.txt").read_text()
    finally:
        for rank in ranks:
            rank.end_group()
    return [torch.load(folder / f"result_{number}", weights_only=False) for number in range(count)]

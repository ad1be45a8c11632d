"""Memory over patch and batch: counted where it matters, on straight lines between."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

from fuse4seg.planning.options import SMALLEST_BATCH
from fuse4seg.planning.step_memory import StepMemory, Training, count_memory

#: An estimate this close to what it is compared with, as a share of it, is counted instead.
CLOSE = 0.03
#: The line of another network of the search will do for estimates that are further than this from it. They share their first
#: stages, which take most of the memory.
FAR = 0.3


class Line(NamedTuple):
    """Memory of one network over the voxels of a batch."""

    at: int
    memory: StepMemory
    slopes: tuple[float, ...]

    def memory_of(self, voxels: int) -> StepMemory:
        """Memory of a batch of so many voxels."""
        return StepMemory(*(round(value + slope * (voxels - self.at))
                            for value, slope in zip(astuple(self.memory), self.slopes, strict=True)))


class MemoryModel:
    """Memory of training networks, for a search that asks often.

    For one network, every part of the memory is a straight line over the voxels of a batch, but for a few bytes of fixed
    grids and of padding. It is counted at two batches of the first patch that is asked for.

    Args:
        training: What does not change during the search.
    """

    def __init__(self, training: Training) -> None:
        self.training = training
        self._lines: dict[str, Line] = {}
        self._latest: dict[int, Line] = {}

    def count(self, architecture: Mapping[str, Any], patch_size: Sequence[int], batch_size: int) -> StepMemory:
        """Counted memory (:func:`count_memory`), remembered by the process."""
        return _count(_key(architecture), tuple(map(int, patch_size)), batch_size, self.training)

    def estimate(self, architecture: Mapping[str, Any], patch_size: Sequence[int], batch_size: int, *, limit: float) -> int:
        """Bytes by a line that tells on which side of ``limit`` they lie, or counted where none does."""
        voxels = batch_size * prod(map(int, patch_size))
        near = self._latest.get(len(patch_size))
        if near is not None and abs(near.memory_of(voxels).total - limit) > FAR * limit:
            return near.memory_of(voxels).total
        on_line = self._line(architecture, patch_size).memory_of(voxels).total
        if abs(on_line - limit) > CLOSE * limit:
            return on_line
        return self.count(architecture, patch_size, batch_size).total

    def largest_batch(self, architecture: Mapping[str, Any], patch_size: Sequence[int], *, limit: float, cap: int) -> int:
        """Largest even batch up to ``cap`` that takes at most ``limit`` bytes; at least 2, whether that fits or not."""
        line, voxels = self._line(architecture, patch_size), prod(map(int, patch_size))
        batch = max(SMALLEST_BATCH, cap - cap % 2)
        while batch > SMALLEST_BATCH and line.memory_of(batch * voxels).total > (1 + CLOSE) * limit:
            batch -= 2
        while batch > SMALLEST_BATCH and self.count(architecture, patch_size, batch).total > limit:
            batch -= 2
        return batch

    def _line(self, architecture: Mapping[str, Any], patch_size: Sequence[int]) -> Line:
        key = _key(architecture)
        if key not in self._lines:
            voxels = SMALLEST_BATCH * prod(map(int, patch_size))
            small, large = (self.count(architecture, patch_size, factor * SMALLEST_BATCH) for factor in (1, 2))
            slopes = tuple((more - less) / voxels for less, more in zip(astuple(small), astuple(large), strict=True))
            self._lines[key] = self._latest[len(patch_size)] = Line(voxels, small, slopes)
        return self._lines[key]


def _key(architecture: Mapping[str, Any]) -> str:
    """The network as text, its numbers as plain ones; memory does not depend on the windows' values."""
    arguments = architecture["arch_kwargs"]
    windows = [[0.0, 1.0] for _ in arguments["windows"]]
    return json.dumps({**architecture, "arch_kwargs": {**arguments, "windows": windows}}, sort_keys=True, default=int)


@lru_cache(maxsize=4096)
def _count(architecture: str, patch_size: tuple[int, ...], batch_size: int, training: Training) -> StepMemory:
    return count_memory(json.loads(architecture), patch_size, batch_size, training)

"""Memory over patch and batch: counted where it matters, bounded between."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from functools import lru_cache
from math import inf, prod
from typing import Any

from fuse4seg.planning.options import SMALLEST_BATCH
from fuse4seg.planning.step_memory import CountedTraining, StepMemory, count_memory

#: Bounds this close to what they are compared with, as a share of it, do not tell.
CLOSE = 0.03
#: The bounds of another network of the search, of as many stages, tell where they are further than this from it: their weights
#: and first stages are the same, which take most of the memory.
FAR = 0.3


class Counts:
    """Counted memory of one network by the voxels of a batch, and bounds in between.

    Every part of the memory is a straight line over the voxels that does not fall below 0, but for a few bytes of fixed grids
    and of padding; the whole is the largest of such lines.
    """

    def __init__(self) -> None:
        self._counted: dict[int, StepMemory] = {}

    def add(self, voxels: int, memory: StepMemory) -> None:
        """Remember a count."""
        self._counted[voxels] = memory

    def bounds(self, voxels: int) -> tuple[float, float]:
        """Bytes that a batch of so many voxels takes at the least and at the most; equal from the second count on."""
        small, large = min(self._counted), max(self._counted)
        less, more = self._counted[small], self._counted[large]
        if small == large:
            ends = less.total, less.total * voxels / small
            return min(ends), max(ends)
        share = (voxels - small) / (large - small)
        on_line = StepMemory(*(round(first + share * (last - first)) for first, last
                               in zip(astuple(less), astuple(more), strict=True)))
        return on_line.total, on_line.total


class MemoryModel:
    """Memory of training networks, for a search that asks often: counted where no count tells enough.

    Args:
        training: What does not change during the search.
    """

    def __init__(self, training: CountedTraining) -> None:
        self.training = training
        self._counts: dict[str, Counts] = {}
        self._latest: dict[tuple[int, int], Counts] = {}

    def count(self, architecture: Mapping[str, Any], patch_size: Sequence[int], batch_size: int) -> StepMemory:
        """Counted memory (:func:`count_memory`), remembered by the process."""
        key = _key(architecture)
        memory = _count(key, tuple(map(int, patch_size)), batch_size, self.training)
        known = self._latest[_kind(architecture, patch_size)] = self._counts.setdefault(key, Counts())
        known.add(batch_size * prod(map(int, patch_size)), memory)
        return memory

    def estimate(self, architecture: Mapping[str, Any], patch_size: Sequence[int], batch_size: int, *, limit: float) -> int:
        """Bytes that lie on the right side of ``limit``: a bound that tells, else counted."""
        voxels = batch_size * prod(map(int, patch_size))
        for known, margin in ((self._counts.get(_key(architecture)), CLOSE),
                              (self._latest.get(_kind(architecture, patch_size)), FAR)):
            low, high = known.bounds(voxels) if known else (0.0, inf)
            if low > (1 + margin) * limit:
                return round(low)
            if high < (1 - margin) * limit:
                return round(high)
        return self.count(architecture, patch_size, batch_size).total

    def largest_batch(self, architecture: Mapping[str, Any], patch_size: Sequence[int], *, limit: float, cap: int) -> int:
        """Largest even batch up to ``cap`` that takes at most ``limit`` bytes; at least 2, whether that fits or not."""
        batch = max(SMALLEST_BATCH, cap - cap % 2)
        for size, fits in ((batch, True), (SMALLEST_BATCH, False)):
            if (self.count(architecture, patch_size, size).total <= limit) is fits:
                return size
        known, voxels = self._counts[_key(architecture)], prod(map(int, patch_size))
        while batch > SMALLEST_BATCH and known.bounds(batch * voxels)[0] > (1 + CLOSE) * limit:
            batch -= 2
        while batch > SMALLEST_BATCH and self.count(architecture, patch_size, batch).total > limit:
            batch -= 2
        return batch


def _kind(architecture: Mapping[str, Any], patch_size: Sequence[int]) -> tuple[int, int]:
    return len(patch_size), len(architecture["arch_kwargs"]["strides"])


def _key(architecture: Mapping[str, Any]) -> str:
    """The network as text, its numbers as plain ones; memory does not depend on the windows' values."""
    arguments = architecture["arch_kwargs"]
    windows = [[0.0, 1.0] for _ in arguments["windows"]]
    return json.dumps({**architecture, "arch_kwargs": {**arguments, "windows": windows}}, sort_keys=True, default=int)


@lru_cache(maxsize=4096)
def _count(architecture: str, patch_size: tuple[int, ...], batch_size: int, training: CountedTraining) -> StepMemory:
    return count_memory(json.loads(architecture), patch_size, batch_size, training)

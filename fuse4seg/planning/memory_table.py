"""What would be planned for GPUs of other sizes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from fuse4seg.datasets.dataset_json import declaration_kept
from fuse4seg.errors import OptionError
from fuse4seg.nnunet_output import logged_prints
from fuse4seg.planning.memory_target import MemoryTarget
from fuse4seg.planning.options import PlanOptions
from fuse4seg.planning.planner import Fuse4SegPlanner, planner_for
from fuse4seg.progress import progress

#: Gigabytes of common GPUs.
TARGETS = (4, 8, 11, 16, 24, 40, 80, 141)
HEADINGS = ["target, GB", "configuration", "patch", "batch", "predicted, GB"]


class TrialPlanner(Fuse4SegPlanner):
    """Plans for a target that no GPU has to have, and writes nothing."""

    def _find_target(self, usual: float) -> MemoryTarget:
        return MemoryTarget(self.options.gpu_memory_target or usual, None)

    def _write(self, plans: dict[str, Any]) -> None:
        """Leave them unwritten."""


def memory_table(dataset: str | int, options: PlanOptions, targets: Iterable[float] = TARGETS) -> list[list[str]]:
    """Rows under HEADINGS: what a fingerprinted dataset would be planned as for each target, with ``options`` otherwise.

    Raises:
        FingerprintNotFoundError: There is no fingerprint with windows.
        OptionError: No target holds a patch.
    """
    rows: list[list[str]] = []
    refused: OptionError | None = None
    with progress(list(targets), "planning", leave=False) as bar:
        for target in bar:
            try:
                rows += _rows(dataset, replace(options, gpu_memory_target=target))
            except OptionError as error:
                refused = error
                rows.append([f"{target:g}", "no patch fits", "", "", ""])
    if refused is not None and all(row[1] == "no patch fits" for row in rows):
        raise refused
    return rows


def _rows(dataset: str | int, options: PlanOptions) -> list[list[str]]:
    planner = planner_for(dataset, options, TrialPlanner)
    with logged_prints(), declaration_kept(planner.folder):
        plans = planner.plan_experiment()
    rows = []
    for name, memory in planner.predicted.items():
        plan = plans["configurations"][name]
        patch = " x ".join(str(extent) for extent in plan["patch_size"])
        rows.append([f"{options.gpu_memory_target:g}", name, patch, str(plan["batch_size"]), f"{memory['total']:.2f}"])
    return rows

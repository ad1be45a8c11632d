"""Plans for GPUs of other sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fuse4seg.errors import OptionError
from fuse4seg.planning import memory_target
from fuse4seg.planning.memory_table import memory_table
from fuse4seg.planning.memory_target import GPU
from fuse4seg.planning.options import PlanOptions
from fuse4seg.planning.planner import plan_experiment

MakeFingerprinted = Callable[..., Path]
OPTIONS = PlanOptions(changes=("follower.features=4",), plans_name="Fuse4SegPlans")


class TestMemoryTable:
    def test_shows_what_planning_would_give_and_writes_nothing(self, make_fingerprinted: MakeFingerprinted) -> None:
        folder = make_fingerprinted((24, 40, 36), cases=1000)
        rows = memory_table(991, OPTIONS, targets=(0.05, 0.2))
        assert not (folder / "Fuse4SegPlans.json").exists()

        plans = plan_experiment(991, replace(OPTIONS, gpu_memory_target=0.2))
        expected = [["0.2", name, " x ".join(map(str, plans["configurations"][name]["patch_size"])),
                     str(plans["configurations"][name]["batch_size"]), f"{memory['total']:.2f}"]
                    for name, memory in plans["fuse4seg"]["memory"].items()]
        assert [row for row in rows if row[0] == "0.2"] == expected
        assert [row[0] for row in rows].count("0.05") == len(expected)

    def test_does_not_care_which_gpu_is_visible(self, make_fingerprinted: MakeFingerprinted,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(memory_target, "visible_gpu", lambda: GPU("Small GPU", total=2.0, free=0.1))
        make_fingerprinted((24, 40, 36))
        assert {row[0] for row in memory_table(991, OPTIONS, targets=(141,))} == {"141"}

    def test_says_where_no_patch_fits(self, make_fingerprinted: MakeFingerprinted) -> None:
        make_fingerprinted((24, 40, 36))
        rows = memory_table(991, OPTIONS, targets=(1e-4, 0.2))
        assert rows[0] == ["0.0001", "no patch fits", "", "", ""]
        assert len(rows) == 3

    def test_is_refused_where_nothing_fits_at_all(self, make_fingerprinted: MakeFingerprinted) -> None:
        make_fingerprinted((24, 40, 36))
        with pytest.raises(OptionError, match="hold no patch"):
            memory_table(991, OPTIONS, targets=(1e-4, 2e-4))

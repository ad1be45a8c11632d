"""Plans in plain English."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fuse4seg.planning.describe import describe_plans
from fuse4seg.planning.options import PlanOptions
from fuse4seg.planning.planner import plan_experiment


def test_gives_a_line_per_configuration(make_fingerprinted: Callable[..., Path]) -> None:
    make_fingerprinted((24, 40, 36), cases=100, spacing=(1.5, 0.75, 0.75))
    plans = plan_experiment(991, PlanOptions(changes=("follower.features=8", "patches.largest_batch=4")))
    memory = plans["fuse4seg"]["memory"]
    assert describe_plans(plans) == [
        f"2d: patch 40 x 40, batch 4, spacing 0.75 x 0.75 mm, features 8 16 32 64, {memory['2d']['total']:.2f} GB",
        "3d_fullres: patch 24 x 40 x 40, batch 4, spacing 1.5 x 0.75 x 0.75 mm, features 8 16 32 64, "
        f"{memory['3d_fullres']['total']:.2f} GB"]

"""The benchmark of iterations runs on a planned dataset; its times are not looked at."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def step(load_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return load_benchmark("step")


def test_times_both_networks_and_both_trainers(step: ModuleType, planned_phantom: Path, tmp_path: Path) -> None:
    output = tmp_path / "step.json"
    assert step.main(["--root", str(planned_phantom), "990", "2d", "-device", "cpu", "--rounds", "1", "-o", str(output)]) == 0
    found = json.loads(output.read_text())
    assert [row["contender"] for row in found["networks"]] == ["U-Net", "fusion network"]
    assert [row["contender"] for row in found["iterations"]] == ["nnU-Net", "Fuse4Seg, gauss_newton"]
    assert all(row["seconds"] > 0 for name in ("networks", "iterations") for row in found[name])

"""The benchmark of a GPU: its small form runs on a CPU and leaves every figure, as JSON and as a page."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

SCRIPTS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def gpu(load_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    sys.path.insert(0, str(SCRIPTS))
    return load_benchmark("gpu")


class TestPeak:
    def test_is_what_was_held_at_once(self, gpu: ModuleType) -> None:
        def act() -> None:
            first = torch.empty(10_000_000, dtype=torch.uint8)
            second = torch.empty(5_000_000, dtype=torch.uint8)
            del first
            third = torch.empty(7_000_000, dtype=torch.uint8)
            del second, third

        assert gpu.peak(act, torch.device("cpu")) == pytest.approx(15_000_000, abs=1000)


class TestAllowance:
    def test_makes_the_worst_plan_fit(self, gpu: ModuleType) -> None:
        rows = [{"counted/measured": share} for share in (1.0, 0.8, 0.9)]
        assert gpu.needed_allowance(rows) == pytest.approx(0.25)


@pytest.mark.slow
def test_the_small_form_leaves_every_figure(tmp_path: Path) -> None:
    environment = {**{name: value for name, value in os.environ.items() if not name.startswith("nnUNet_")},
                   "PYTHONPATH": str(SCRIPTS.parent)}
    run = subprocess.run([sys.executable, str(SCRIPTS / "gpu.py"), "--small", "--root", str(tmp_path / "data"), "-o",
                          str(tmp_path / "gpu.json"), "--page", str(tmp_path / "gpu.md")], env=environment, capture_output=True,
                         text=True, check=False)
    assert run.returncode == 0, run.stderr
    figures = json.loads((tmp_path / "gpu.json").read_text())
    assert [row["target"] for row in figures["memory"]] == [0.1, 0.1, 0.12, 0.12, 0.15, 0.15]
    # The same bytes on a CPU, but for what its convolutions take besides.
    assert all(0.5 < row["counted/measured"] < 1.1 for row in figures["memory"])
    contenders = ["nnU-Net", "nnU-Net, compile", "Fuse4Seg", "Fuse4Seg, compile", "Fuse4Seg, bfloat16"]
    assert [row["contender"] for row in figures["iterations"]] == contenders * 2
    assert all(0 < abs(row["bfloat16 - float32"]) < 0.1 for row in figures["precision"])
    assert 0 <= figures["training"][0]["dice"] <= 1
    assert figures["prediction"][1]["ratio"] > 0
    page = (tmp_path / "gpu.md").read_text()
    assert all(f"## {name}" in page for name in ("Memory", "Iterations", "Precision", "Training", "Prediction"))

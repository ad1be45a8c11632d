"""Timing: contenders take turns, and ratios are those of their rounds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch


@pytest.fixture(scope="module")
def timing(load_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return load_benchmark("timing")


class Clock:
    """A clock that only contenders move."""

    def __init__(self) -> None:
        self.now, self.turns = 0.0, []

    def spend(self, name: str, seconds: list[float]) -> None:
        self.now += seconds[self.turns.count(name)]
        self.turns.append(name)


def test_contenders_take_turns_and_the_first_round_does_not_count(timing: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock.now)
    seconds = timing.measure({"peer": lambda: clock.spend("peer", [9, 1, 2]), "ours": lambda: clock.spend("ours", [9, 3, 3])},
                             rounds=2)
    assert clock.turns == ["peer", "ours"] * 3
    assert seconds == {"peer": [1, 2], "ours": [3, 3]}


def test_ratios_are_taken_round_by_round(timing: ModuleType) -> None:
    # A machine that is twice as slow in the second round, and three times in the third.
    rows = timing.compare({"peer": [1.0, 2.0, 3.0], "ours": [1.5, 3.0, 9.0]}, peer="peer")
    assert rows == [{"contender": "peer", "seconds": 2.0, "ratio": 1.0, "lowest": 1.0, "highest": 1.0},
                    {"contender": "ours", "seconds": 3.0, "ratio": 1.5, "lowest": 1.5, "highest": 3.0}]


def test_ratios_can_be_over_what_is_expected(timing: ModuleType) -> None:
    rows = timing.compare({"2": [1.0], "4": [1.5], "8": [4.0]}, peer="2", expected={"4": 2.0, "8": 4.0})
    assert [row["ratio"] for row in rows] == [1.0, 0.75, 1.0]


def test_figures_are_kept_with_what_they_were_measured_on(timing: ModuleType, tmp_path: Path) -> None:
    timing.save({"rows": [{"ratio": 1.5}]}, tmp_path / "figures.json")
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["rows"] == [{"ratio": 1.5}]
    assert (figures["device"], figures["torch"], figures["threads"]) == ("cpu", torch.__version__, torch.get_num_threads())


def test_figures_go_nowhere_unless_asked(timing: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    timing.save({"rows": []}, None)
    assert list(tmp_path.iterdir()) == []

"""Plots of a comparison: the numbers of its tables, where they stand, as text for those who do not see them."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from typing import Any

import matplotlib.figure
import numpy as np
import pytest

from fuse4seg.comparison import plots
from fuse4seg.comparison.plots import cost_plot, dice_plot, readability_plot
from fuse4seg.evaluation.bootstrap import mean_interval

CASES = [f"case{index}" for index in range(8)]
OURS = [0.7 + 0.01 * index for index in range(8)]


def trial(name: str, dice: list[float], *, seconds: float = 0.5, seen: float | None = None) -> dict[str, Any]:
    found = {"name": name, "fold": 0, "seed": 0, "parameters": 2_500_000, "seconds_per_iteration": seconds,
             "segmentation": {"cases": {case: {"core": {"Dice": value}} for case, value in zip(CASES, dice, strict=True)}}}
    return found if seen is None else {**found, "fusion": {"mean": {"visibility": seen}}}


RESULTS = [trial("stacked", [0.6] * 8, seconds=0.25), trial("fuse4seg", OURS, seen=0.9), trial("a $b$ <i>", [0.5] * 8, seen=0.8)]


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[matplotlib.figure.Figure]:
    """What was drawn."""
    drawn: list[matplotlib.figure.Figure] = []
    draw = plots._svg
    monkeypatch.setattr(plots, "_svg", lambda figure: drawn.append(figure) or draw(figure))
    return drawn


class TestDicePlot:
    def test_shows_means_and_intervals_over_cases(self, figures: list[matplotlib.figure.Figure]) -> None:
        plot = dice_plot(RESULTS)
        assert plot.words == "mean Dice: stacked 0.600, fuse4seg 0.735, a $b$ <i> 0.500"
        axes, = figures[0].axes
        assert [label.get_text() for label in axes.get_yticklabels()] == ["stacked", "fuse4seg", "a $b$ <i>"]
        points = [line.get_xdata()[0] for line in axes.get_lines() if line.get_marker() == "o"]
        np.testing.assert_allclose(points, [0.6, 0.735, 0.5])
        lines = [line.get_xdata() for line in axes.get_lines() if line.get_marker() != "o"]
        np.testing.assert_allclose(lines[1], mean_interval(OURS))

    def test_is_none_where_nothing_is_segmented(self) -> None:
        assert dice_plot([{"name": "alone", "fusion": {"mean": {}}}]) is None


class TestReadabilityPlot:
    def test_sets_dice_beside_visibility_and_stacked_nnunet_s_dice(self, figures: list[matplotlib.figure.Figure]) -> None:
        plot = readability_plot(RESULTS, [{"all_sources": {"mean": {"visibility": 0.95}}}, {}])
        assert plot.words == "fuse4seg: visibility 0.900, Dice 0.735; a $b$ <i>: visibility 0.800, Dice 0.500"
        axes, = figures[0].axes
        points = [(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.get_lines() if line.get_marker() == "o"]
        np.testing.assert_allclose(points, [(0.9, 0.735), (0.8, 0.5)])
        lines = {line.get_label().partition(" ")[0]: line for line in axes.get_lines() if line.get_marker() != "o"}
        assert lines["Dice"].get_ydata()[0] == pytest.approx(0.6)
        assert lines["visibility"].get_xdata()[0] == pytest.approx(0.95)

    def test_is_none_where_no_row_has_both(self) -> None:
        assert readability_plot(RESULTS[:1], []) is None


class TestCostPlot:
    def test_shows_seconds_and_parameters(self, figures: list[matplotlib.figure.Figure]) -> None:
        plot = cost_plot(RESULTS)
        assert plot.words.startswith("stacked: 0.25 seconds an iteration, 2.50 million parameters; fuse4seg: 0.50 seconds")
        bars = [[bar.get_width() for bar in axes.patches] for axes in figures[0].axes]
        assert bars == [[0.25, 0.5, 0.5], [2.5, 2.5, 2.5]]

    def test_is_none_where_nothing_was_measured(self) -> None:
        assert cost_plot([{"name": "alone", "fusion": {"mean": {}}}]) is None


def test_drawings_are_whole_and_the_same_each_time() -> None:
    first, second = (dice_plot(RESULTS).svg for _ in range(2))
    assert first == second
    assert ElementTree.fromstring(first).tag.endswith("svg")

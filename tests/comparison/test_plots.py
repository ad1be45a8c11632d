"""Plots of a comparison: the numbers of its tables, where they stand, as text for those who do not see them."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from typing import Any

import numpy as np
import pytest

from fuse4seg.comparison.plots import cost_plot, curve_plot, dice_plot, difference_plot, readability_plot
from fuse4seg.evaluation.bootstrap import mean_interval, paired_test

CASES = [f"case{index}" for index in range(8)]
OURS = [0.7 + 0.01 * index for index in range(8)]


def trial(name: str, dice: list[float], *, seconds: float = 0.5, seen: float | None = None) -> dict[str, Any]:
    found = {"name": name, "fold": 0, "seed": 0, "parameters": 2_500_000, "seconds_per_iteration": seconds,
             "segmentation": {"cases": {case: {"core": {"Dice": value}} for case, value in zip(CASES, dice, strict=True)}}}
    return found if seen is None else {**found, "fusion": {"mean": {"visibility": seen}}}


RESULTS = [trial("stacked", [0.6] * 8, seconds=0.25), trial("fuse4seg", OURS, seen=0.9), trial("a $b$ <i>", [0.5] * 8, seen=0.8)]


class TestDicePlot:
    def test_shows_means_and_intervals_over_cases(self) -> None:
        plot = dice_plot(RESULTS)
        assert plot.words == "mean Dice: stacked 0.600, fuse4seg 0.735, a $b$ <i> 0.500"
        axes, = plot.figure.axes
        assert [label.get_text() for label in axes.get_yticklabels()] == ["stacked", "fuse4seg", "a $b$ <i>"]
        points = [line.get_xdata()[0] for line in axes.get_lines() if line.get_marker() == "o"]
        np.testing.assert_allclose(points, [0.6, 0.735, 0.5])
        lines = [line.get_xdata() for line in axes.get_lines() if line.get_marker() != "o"]
        np.testing.assert_allclose(lines[1], mean_interval(OURS))

    def test_is_none_where_nothing_is_segmented(self) -> None:
        assert dice_plot([{"name": "alone", "fusion": {"mean": {}}}]) is None


class TestDifferencePlot:
    def test_shows_the_rows_beside_stacked_nnunet_with_intervals_for_all_together(self) -> None:
        plot = difference_plot([*RESULTS, trial("same", [0.6] * 4 + [0.61, 0.59] * 2)])
        assert plot.words == "Dice less stacked nnU-Net's: fuse4seg 0.135, a $b$ <i> -0.100, same 0.000"
        axes, = plot.figure.axes
        points = [line for line in axes.get_lines() if line.get_marker() == "o"]
        np.testing.assert_allclose([point.get_xdata()[0] for point in points], [0.135, -0.1, 0], atol=1e-12)
        assert [point.get_markerfacecolor() == "white" for point in points] == [False, False, True]
        interval = axes.get_lines()[1].get_xdata()
        np.testing.assert_allclose(interval, paired_test(OURS, [0.6] * 8, comparisons=3).interval)
        assert interval[0] < paired_test(OURS, [0.6] * 8).interval[0]

    def test_is_none_where_there_is_nothing_to_stand_beside(self) -> None:
        assert difference_plot(RESULTS[1:]) is None


class TestCurvePlot:
    def test_shows_mean_and_band_of_the_trainings(self) -> None:
        curves = [{**RESULTS[0], "pseudo_dice": curve, "iterations": 50} for curve in ([0.1, 0.5], [0.3, 0.6])]
        plot = curve_plot([*curves, {**RESULTS[1], "pseudo_dice": [0.2], "iterations": 50}], rows=["stacked"])
        assert plot.words == "Dice of the last validation batches: stacked 0.550"
        axes, = plot.figure.axes
        line, = axes.get_lines()
        np.testing.assert_allclose(line.get_xydata(), [[50, 0.2], [100, 0.55]])
        corners = axes.collections[0].get_paths()[0].vertices
        assert {(50, 0.1), (100, 0.5), (50, 0.3), (100, 0.6)} <= set(map(tuple, corners.tolist()))

    def test_is_none_without_curves(self) -> None:
        assert curve_plot(RESULTS) is None


class TestReadabilityPlot:
    def test_sets_dice_beside_visibility_and_stacked_nnunet_s_dice(self) -> None:
        plot = readability_plot(RESULTS, [{"all_sources": {"mean": {"visibility": 0.95}}}, {}])
        assert plot.words == "fuse4seg: visibility 0.900, Dice 0.735; a $b$ <i>: visibility 0.800, Dice 0.500"
        axes, = plot.figure.axes
        points = [(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.get_lines() if line.get_marker() == "o"]
        np.testing.assert_allclose(points, [(0.9, 0.735), (0.8, 0.5)])
        lines = {line.get_label().partition(" ")[0]: line for line in axes.get_lines() if line.get_marker() != "o"}
        assert lines["Dice"].get_ydata()[0] == pytest.approx(0.6)
        assert lines["visibility"].get_xdata()[0] == pytest.approx(0.95)

    def test_is_none_where_no_row_has_both(self) -> None:
        assert readability_plot(RESULTS[:1], []) is None


class TestCostPlot:
    def test_shows_seconds_and_parameters(self) -> None:
        plot = cost_plot(RESULTS)
        assert plot.words.startswith("stacked: 0.25 seconds an iteration, 2.50 million parameters; fuse4seg: 0.50 seconds")
        bars = [[bar.get_width() for bar in axes.patches] for axes in plot.figure.axes]
        assert bars == [[0.25, 0.5, 0.5], [2.5, 2.5, 2.5]]

    def test_is_none_where_nothing_was_measured(self) -> None:
        assert cost_plot([{"name": "alone", "fusion": {"mean": {}}}]) is None


def test_drawings_are_whole_and_the_same_each_time() -> None:
    first, second = (dice_plot(RESULTS).svg for _ in range(2))
    assert first == second
    assert ElementTree.fromstring(first).tag.endswith("svg")

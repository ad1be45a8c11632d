"""A comparison's plots, one for each question: which row segments best, which can be told apart, what a readable image costs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from io import StringIO
from typing import Any, NamedTuple

from matplotlib import rc_context
from matplotlib.figure import Figure

from fuse4seg.comparison.report import Result, by_row, case_means, difference, known, segmented
from fuse4seg.comparison.rows import PEER
from fuse4seg.comparison.scores import TOGETHER, VISIBILITY
from fuse4seg.evaluation.bootstrap import defined_mean, mean_interval

#: Inches: width of a plot, height of a row in it and of what surrounds the rows.
WIDTH, ROW, AROUND = 7.5, 0.32, 1.0
#: Readable for colour-blind people (Okabe and Ito, 2008).
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#505860"
COLOURS, LINES = (BLUE, ORANGE, "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000"), ("-", "--", ":")


class Plot(NamedTuple):
    """A question, its answer as a drawing, and in words for those who do not see it."""

    question: str
    figure: Figure
    words: str

    @property
    def svg(self) -> str:
        """The drawing: the same file for the same numbers."""
        written = StringIO()
        with rc_context({"svg.hashsalt": "fuse4seg"}):
            self.figure.savefig(written, format="svg", metadata={"Date": None})
        return written.getvalue()


def dice_plot(results: Sequence[Result]) -> Plot | None:
    """Mean Dice of each row with the bootstrap interval over its cases; None where nothing is segmented."""
    cases = {name: list(case_means(trials).values()) for name, trials in by_row(segmented(results)).items()}
    if not cases:
        return None
    means = {name: defined_mean(values) for name, values in cases.items()}
    figure, axes = _rows_of(list(means))
    for place, (name, values) in enumerate(cases.items()):
        interval = mean_interval(values)
        if not math.isnan(interval[0]):
            axes.plot(interval, [place, place], color=GREY)
        axes.plot(means[name], place, "o", color=ORANGE if name == PEER else BLUE)
    axes.set_xlabel("mean Dice of the cases, with its 95 % interval")
    return Plot("Which segments best?", figure, _in_words("mean Dice", means, 3))


def difference_plot(results: Sequence[Result]) -> Plot | None:
    """Dice of each row less that of stacked nnU-Net, case by case, with intervals that hold for all rows together.

    Rows whose interval holds 0 are hollow. None where no other row shares a fold and a seed with stacked nnU-Net.
    """
    names = [name for name in by_row(segmented(results)) if name != PEER]
    tests = {name: difference(results, name, PEER, comparisons=len(names)) for name in names}
    tests = {name: test for name, test in tests.items() if test is not None}
    if not tests:
        return None
    figure, axes = _rows_of(list(tests))
    axes.axvline(0, color=ORANGE, linestyle="--")
    for place, test in enumerate(tests.values()):
        axes.plot(test.interval, [place, place], color=GREY)
        apart = test.interval[0] > 0 or test.interval[1] < 0
        axes.plot(test.difference, place, "o", color=BLUE, markerfacecolor=BLUE if apart else "white")
    axes.set_xlabel(f"Dice less stacked nnU-Net's, with intervals that hold to 95 % for all {len(tests)} together")
    words = {name: test.difference for name, test in tests.items()}
    return Plot("Which can be told apart from all channels?", figure, _in_words("Dice less stacked nnU-Net's", words, 3))


def curve_plot(results: Sequence[Result], *, rows: Sequence[str] | None = None) -> Plot | None:
    """Dice of the validation batches over the iterations: mean over the trainings, and a band from the lowest to the highest.

    Args:
        results: Of the trainings.
        rows: Names of those that are shown; None for all.

    Returns:
        None where no training has a curve.
    """
    found = {name: [trial for trial in trials if trial.get("pseudo_dice")] for name, trials in by_row(results).items()
             if rows is None or name in rows}
    found = {name: trials for name, trials in found.items() if trials}
    if not found:
        return None
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    axes = figure.subplots()
    words = {}
    for number, (name, trials) in enumerate(found.items()):
        curves = [trial["pseudo_dice"] for trial in trials]
        epochs = range(min(map(len, curves)))
        columns = [[curve[epoch] for curve in curves] for epoch in epochs]
        iterations = [(epoch + 1) * trials[0]["iterations"] for epoch in epochs]
        colour = COLOURS[number % len(COLOURS)]
        axes.fill_between(iterations, *([side(values) for values in columns] for side in (min, max)), color=colour, alpha=0.15,
                          linewidth=0)
        mean = [statistics.fmean(values) for values in columns]
        axes.plot(iterations, mean, LINES[number // len(COLOURS) % len(LINES)], color=colour, label=name)
        words[name] = mean[-1]
    axes.set(xlabel="iterations", ylabel="Dice of validation batches")
    for text in axes.legend(fontsize=8).get_texts():
        text.set_parse_math(False)
    return Plot("How fast do they learn?", figure, _in_words("Dice of the last validation batches", words, 3))


def readability_plot(results: Sequence[Result], trivial: Sequence[dict[str, Any]]) -> Plot | None:
    """Dice against visibility of the rows that have both; lines show stacked nnU-Net's Dice and all sources' visibility.

    Args:
        results: Of the trainings.
        trivial: As :func:`~fuse4seg.comparison.report.fusion_table` takes them.

    Returns:
        None where no row has both.
    """
    found = {}
    for name, trials in by_row(segmented(results)).items():
        seen = known(trial.get("fusion", {}).get("mean", {}).get(VISIBILITY) for trial in trials)
        if seen:
            found[name] = (statistics.fmean(seen), defined_mean(case_means(trials).values()))
    if not found:
        return None
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, (seen, dice) in found.items():
        axes.plot(seen, dice, "o", color=BLUE)
        axes.annotate(name, (seen, dice), xytext=(5, 4), textcoords="offset points", fontsize=8)
    if peers := by_row(segmented(results)).get(PEER):
        axes.axhline(defined_mean(case_means(peers).values()), color=ORANGE, linestyle="--", label=f"Dice of {PEER} nnU-Net")
    together = known(fold[TOGETHER]["mean"].get(VISIBILITY) for fold in trivial if TOGETHER in fold)
    if together:
        axes.axvline(statistics.fmean(together), color=GREY, linestyle=":", label="visibility of all sources side by side")
    axes.margins(0.15)
    axes.set(xlabel="visibility of the boundaries in the fused image", ylabel="mean Dice")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, loc="best")
    words = "; ".join(f"{name}: visibility {seen:.3f}, Dice {dice:.3f}" for name, (seen, dice) in found.items())
    return Plot("What does a readable image cost?", figure, words)


def cost_plot(results: Sequence[Result]) -> Plot | None:
    """Seconds of an iteration and millions of parameters of each row; None where nothing was measured."""
    rows = by_row([result for result in results if "seconds_per_iteration" in result])
    if not rows:
        return None
    costs: dict[str, Callable[[Sequence[Result]], float]] = {
        "seconds an iteration": lambda trials: statistics.median(trial["seconds_per_iteration"] for trial in trials),
        "million parameters": lambda trials: trials[0]["parameters"] / 1e6}
    figure = Figure(figsize=(WIDTH, AROUND + ROW * len(rows)), layout="constrained")
    for axes, (title, cost) in zip(figure.subplots(1, 2, sharey=True), costs.items(), strict=True):
        axes.barh(range(len(rows)), [cost(trials) for trials in rows.values()], height=0.6,
                  color=[ORANGE if name == PEER else BLUE for name in rows])
        axes.set_xlabel(title)
        _name_rows(axes, list(rows))
    words = "; ".join(f"{name}: " + ", ".join(f"{cost(trials):.2f} {title}" for title, cost in costs.items())
                      for name, trials in rows.items())
    return Plot("What does a row cost?", figure, words)


def _rows_of(names: Sequence[str]) -> tuple[Figure, Any]:
    """A figure with a line for each row, the first on top."""
    figure = Figure(figsize=(WIDTH, AROUND + ROW * len(names)), layout="constrained")
    axes = figure.subplots()
    _name_rows(axes, names)
    axes.grid(axis="x", alpha=0.4)
    return figure, axes


def _name_rows(axes: Any, names: Sequence[str]) -> None:
    # A name is no formula, whatever signs it has.
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.set_ylim(len(names) - 0.5, -0.5)


def _in_words(what: str, values: dict[str, float], decimals: int) -> str:
    return f"{what}: " + ", ".join(f"{name} {value:.{decimals}f}" for name, value in values.items())

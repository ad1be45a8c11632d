"""Faults, on purpose: short forms run with every other test, long forms by ``make faults``, which prints their figures.

How a long form takes part:

1. Its test lies in ``tests/faults/test_<concept>.py`` beside its short form, and is marked ``@pytest.mark.faults`` (and nothing
   else). Neither plain ``pytest`` nor ``make test`` runs it; ``make faults`` runs all that are marked and nothing else.
   Both forms call the same function, with other numbers.
2. It takes the fixture ``record_figure`` and calls it once per row of the table, before it asserts anything, so that a
   figure that misses its target is printed as well::

       @pytest.mark.faults
       def test_fifty_kills(record_figure: RecordFigure) -> None:
           equal = sum(survives_a_kill(seed) for seed in range(50))
           record_figure("kill -9, then resumed: equal weights", target="50 of 50", measured=f"{equal} of 50")
           assert equal == 50

3. At the end of the session the rows are printed, those of failed tests marked as such and last. Figures
   travel with pytest's reports, so they also arrive from the processes of pytest-xdist.
"""

from __future__ import annotations

from typing import Protocol

import pytest

FIGURE = "fault_figure"
HEADINGS = ("figure", "target", "measured", "test")


class RecordFigure(Protocol):
    """What the fixture ``record_figure`` gives."""

    def __call__(self, figure: str, *, target: str, measured: str) -> None:
        """Add a row to the table that is printed at the end."""


@pytest.fixture
def record_figure(request: pytest.FixtureRequest) -> RecordFigure:
    """Adds rows to the table at the end of the session."""

    def record(figure: str, *, target: str, measured: str) -> None:
        request.node.user_properties.append((FIGURE, [figure, target, measured]))

    return record


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table, if any figure was recorded."""
    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.stats.get(outcome, [])]
    rows = [(*row, report.outcome) for report in reports if getattr(report, "when", "") == "call"
            for name, row in report.user_properties if name == FIGURE]
    if not rows:
        return
    widths = [max(map(len, column)) for column in zip(HEADINGS, *rows, strict=True)]
    terminalreporter.section("figures of the fault tests")
    for row in (HEADINGS, tuple("-" * width for width in widths), *rows):
        terminalreporter.write_line("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())

"""Plain text tables of results."""

from __future__ import annotations

from collections.abc import Sequence

DECIMALS = 4


def format_table(header: Sequence[str], rows: Sequence[Sequence[str | float]], *, decimals: int = DECIMALS) -> str:
    """Text with one line for the header, one for a rule, and one per row; the first column left, all others right.

    Args:
        header: Names of the columns.
        rows: One cell per column: text as it is, integers in full, floats with ``decimals`` decimals, NaN as ``nan``.
        decimals: Digits behind the point.

    Raises:
        ValueError: A row is not as long as the header.

    Example:
        >>> print(format_table(["case", "Dice"], [["a", 0.5], ["mean", 1.0]], decimals=2))
        case  Dice
        ----------
        a     0.50
        mean  1.00
    """
    cells = [[_cell(value, decimals) for value in row] for row in [header, *rows]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(_aligned(row, widths)) for row in cells]
    return "\n".join(line.rstrip() for line in [lines[0], "-" * max(map(len, lines)), *lines[1:]])


def _aligned(row: list[str], widths: list[int]) -> list[str]:
    return [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]


def _cell(value: str | float, decimals: int) -> str:
    return f"{value:.{decimals}f}" if isinstance(value, float) else str(value)

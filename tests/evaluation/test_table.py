"""Text tables: aligned columns and faithful numbers."""

from __future__ import annotations

import math

import pytest

from fuse4seg.evaluation.table import format_table


class TestFormatTable:
    def test_aligns_names_left_and_numbers_right(self) -> None:
        table = format_table(["case", "Dice", "count"], [["a", 0.5, 3], ["longer", math.nan, 12]], decimals=2)
        assert table.splitlines() == [
            "case    Dice  count",
            "-------------------",
            "a       0.50      3",
            "longer   nan     12",
        ]

    def test_ends_no_line_in_blanks(self) -> None:
        table = format_table(["a", "b"], [["wide name", "x"], ["n", ""]])
        assert all(line == line.rstrip() for line in table.splitlines())

    def test_makes_a_table_without_rows(self) -> None:
        assert format_table(["a", "b"], []) == "a  b\n----"

    def test_refuses_a_row_of_another_length(self) -> None:
        with pytest.raises(ValueError, match="argument"):
            format_table(["a", "b"], [["only one"]])

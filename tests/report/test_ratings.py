"""Ratings of readers: read from either form, refused where they are of other cases, merged so that no spreadsheet runs them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from fuse4seg.errors import OptionError, UnreadableRecordError
from fuse4seg.report.ratings import COLUMNS, read_ratings, write_merged


def as_json(path: Path, rater: str, **given: Any) -> Path:
    rows = {case: {"rating": rating, "note": "", "time": "2026-01-01T00:00:00Z"} for case, rating in given.items()}
    path.write_text(json.dumps({"report": "abc", "rater": rater, "ratings": rows}))
    return path


class TestReadRatings:
    def test_reads_what_a_report_exports_in_either_form(self, tmp_path: Path) -> None:
        first = read_ratings(as_json(tmp_path / "one.json", "Ann", a="pass", b="fail"), cases=["a", "b", "c"])
        table = tmp_path / "two.csv"
        table.write_text('report,rater,case,rating,note,time\r\nabc,Bob,a,unsure,"odd, but ""fine""",t\r\n', encoding="utf-8")
        second = read_ratings(table, cases=["a", "b", "c"])
        assert (first.rater, first.given) == ("Ann", {"a": "pass", "b": "fail"})
        assert (second.rater, second.given, second.rows["a"]["note"]) == ("Bob", {"a": "unsure"}, 'odd, but "fine"')

    def test_names_a_rater_without_a_name_by_the_file(self, tmp_path: Path) -> None:
        assert read_ratings(as_json(tmp_path / "night.json", "", a="pass"), cases=["a"]).rater == "night"

    def test_refuses_ratings_of_other_cases(self, tmp_path: Path) -> None:
        path = as_json(tmp_path / "one.json", "Ann", a="pass", y="fail", z="fail")
        with pytest.raises(OptionError, match=f"{path} rates 'y' and 1 more, which this report does not hold"):
            read_ratings(path, cases=["a"])

    @pytest.mark.parametrize(("name", "content"), [
        ("a.json", "{"), ("a.json", "[]"), ("a.json", '{"ratings": {"a": 1}}'), ("a.csv", "case;rating\n"), ("a.csv", "\xff\xfe"),
        ("a.csv", ""), ("a.json", '{"ratings": {"a": {"rating": "perhaps"}}}')])
    def test_refuses_what_holds_no_ratings(self, tmp_path: Path, name: str, content: str) -> None:
        (tmp_path / name).write_text(content, encoding="latin-1")
        with pytest.raises(UnreadableRecordError, match=f"{tmp_path / name}.*Export the ratings again"):
            read_ratings(tmp_path / name, cases=["a"])

    @pytest.mark.parametrize("name", ["a.json", "a.csv"])
    def test_says_that_a_file_is_missing(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(UnreadableRecordError, match="is missing"):
            read_ratings(tmp_path / name, cases=["a"])


class TestWriteMerged:
    def test_writes_what_reads_back_and_runs_nowhere(self, tmp_path: Path) -> None:
        formula = {"rating": "fail", "note": '=HYPERLINK("x")', "time": "t"}
        (tmp_path / "one.json").write_text(json.dumps({"report": "abc", "rater": "@Ann", "ratings": {"-a": formula}}))
        ratings = read_ratings(tmp_path / "one.json", cases=["-a"])
        write_merged([ratings], tmp_path / "merged.csv")
        rows = list(csv.reader((tmp_path / "merged.csv").open(newline="")))
        assert rows == [list(COLUMNS), ["abc", "'@Ann", "'-a", "fail", '\'=HYPERLINK("x")', "t"]]
        again = read_ratings(tmp_path / "merged.csv", cases=["-a"])
        assert (again.rater, again.rows["-a"]["note"]) == ("@Ann", '=HYPERLINK("x")')

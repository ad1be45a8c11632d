"""Ratings of readers: read, refused where they are of other cases, merged, and how far they agree by scikit-learn and by hand."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from fuse4seg.errors import OptionError, UnreadableRecordError
from fuse4seg.report.ratings import COLUMNS, VALUES, Ratings, agreement_of, cohens_kappa, fleiss_kappa, read_ratings, write_merged

SOME = st.sampled_from(VALUES)


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


class TestCohensKappa:
    @settings(deadline=None)
    @given(st.lists(st.tuples(SOME, SOME), min_size=1, max_size=20))
    def test_is_that_of_scikit_learn(self, pairs: list[tuple[str, str]]) -> None:
        first, second = zip(*pairs, strict=True)
        found = cohens_kappa(first, second)
        if len({*first, *second}) == 1:
            assert math.isnan(found)
        else:
            assert found == pytest.approx(cohen_kappa_score(first, second))

    def test_is_not_defined_without_cases(self) -> None:
        assert math.isnan(cohens_kappa([], []))


class TestFleissKappa:
    def test_is_that_of_the_example_of_fourteen_raters(self) -> None:
        # Counts of five categories for ten subjects, as the usual worked example of Fleiss' kappa has them: .210.
        counts = [(0, 0, 0, 0, 14), (0, 2, 6, 4, 2), (0, 0, 3, 5, 6), (0, 3, 9, 2, 0), (2, 2, 8, 1, 1), (7, 7, 0, 0, 0),
                  (3, 2, 6, 3, 0), (2, 5, 3, 2, 2), (6, 5, 2, 1, 0), (0, 2, 2, 3, 7)]
        ratings = [[str(category) for category, count in enumerate(row) for _ in range(count)] for row in counts]
        assert fleiss_kappa(ratings) == pytest.approx(0.210, abs=5e-4)

    @settings(deadline=None)
    @given(st.lists(st.lists(SOME, min_size=3, max_size=3), min_size=1, max_size=12))
    def test_is_one_where_all_agree_and_never_more(self, ratings: list[list[str]]) -> None:
        found = fleiss_kappa(ratings)
        assert math.isnan(found) or found <= 1 + 1e-12
        alike = [[case[0]] * 3 for case in ratings]
        assert fleiss_kappa(alike) == pytest.approx(1) or len({case[0] for case in ratings}) == 1


def rater(name: str, **given: str) -> Ratings:
    return Ratings(name, {case: {"rating": rating, "note": "", "time": "", "report": ""} for case, rating in given.items()})


class TestAgreementOf:
    def test_compares_each_two_on_what_both_have_rated(self) -> None:
        found = agreement_of([rater("Ann", a="pass", b="fail", c="fail"), rater("Bob", a="pass", b="pass", d="fail")])
        pair, = found["pairs"]
        assert (pair["raters"], pair["cases"], pair["share"], pair["kappa"]) == (("Ann", "Bob"), 2, 0.5, 0.0)
        assert found["fleiss"] is None
        assert found["table"] == [("a", ["pass", "pass"]), ("b", ["fail", "pass"]), ("c", ["fail", "-"]), ("d", ["-", "fail"])]

    def test_of_three_has_fleiss_kappa_on_what_all_have_rated(self) -> None:
        given = {"a": "pass", "b": "fail"}
        found = agreement_of([rater("Ann", **given), rater("Ann", **given), rater("C", **given, c="fail")])
        assert (found["fleiss"], found["cases"], len(found["pairs"])) == (1.0, 2, 3)
        assert found["raters"] == ["Ann (1)", "Ann (2)", "C"]

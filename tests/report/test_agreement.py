"""Agreement of raters against scikit-learn, published examples and laws."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from fuse4seg.report.agreement import agreement_of, cohens_kappa, fleiss_kappa
from fuse4seg.report.ratings import VALUES, Ratings

SOME = st.sampled_from(VALUES)


class TestCohensKappa:
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

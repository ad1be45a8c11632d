"""Pages: whatever a case is called, its name is text, and its files have names that every system takes."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from fuse4seg.report.page import Pages, as_script, safe_names, shown_number, shown_signed

NAMES = st.lists(st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=120), unique=True, max_size=8)


class TestSafeNames:
    @given(NAMES)
    def test_are_plain_and_differ_also_where_case_does_not_count(self, names: list[str]) -> None:
        made = safe_names(names)
        assert list(made) == names
        assert all(re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,108}", file) for file in made.values())
        assert len({file.casefold() for file in made.values()}) == len(names)

    def test_plain_names_stay(self) -> None:
        assert safe_names(["BraTS_001", "case.2"]) == {"BraTS_001": "BraTS_001", "case.2": "case.2"}


class TestScripts:
    @given(st.text())
    def test_a_name_ends_no_script(self, name: str) -> None:
        script = as_script(name, {"layers": []})
        assert not set(script) & set("<>&")
        assert script.isascii()

    def test_of_a_single_file_are_within_the_page_and_end_where_they_end(self) -> None:
        pages = Pages(single=True, nonce="0123")
        assert pages.script("ratings.js").startswith('<script nonce="0123">')
        assert pages.script("ratings.js").count("</script") == 1
        assert Pages(single=False, nonce="0123").under("../").script("ratings.js") == (
            '<script nonce="0123" src="../static/ratings.js"></script>')


def test_what_is_not_known_is_a_hyphen() -> None:
    assert [shown_number(value, 2) for value in (0.125, None, float("nan"))] == ["0.12", "-", "-"]
    assert [shown_signed(value) for value in (2.0, None)] == ["+2.0 sd", "-"]

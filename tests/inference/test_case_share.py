"""Shares of cases: every case in one of them, and all that was found with the first."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuse4seg.inference import case_share
from fuse4seg.inference.case_share import WHOLE, CaseShare


@given(cases=st.lists(st.integers(), unique=True), of=st.integers(1, 8))
def test_every_case_is_in_one_share_and_shares_are_of_one_size(cases: list[int], of: int) -> None:
    shares = [CaseShare(number, of).take(cases) for number in range(of)]
    assert sorted(case for share in shares for case in share) == sorted(cases)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_the_first_gathers_when_all_are_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(case_share, "LOOK_EVERY", 0.01)
    gathered: list[object] = []
    first = threading.Thread(target=lambda: gathered.append(CaseShare(0, 3).gather(tmp_path, {"a": 1})))
    first.start()
    assert CaseShare(2, 3).gather(tmp_path, {"c": 3}) is None
    first.join(0.2)
    assert first.is_alive()
    assert CaseShare(1, 3).gather(tmp_path, {"b": 2}) is None
    first.join(30)
    assert gathered == [{"a": 1, "b": 2, "c": 3}]
    assert list(tmp_path.iterdir()) == []


def test_what_an_earlier_run_left_is_forgotten(tmp_path: Path) -> None:
    CaseShare(1, 2).gather(tmp_path, {"a": 1})
    CaseShare(3, 4).gather(tmp_path, {"b": 2})
    (tmp_path / "summary.json").touch()
    WHOLE.forget(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]


def test_alone_there_is_nothing_to_wait_for(tmp_path: Path) -> None:
    assert WHOLE.take(["a", "b"]) == ["a", "b"]
    assert WHOLE.gather(tmp_path, {"a": 1}) == {"a": 1}

"""Progress bars: everything passes through, and a log file stays short."""

from __future__ import annotations

import io
from typing import Any

import pytest

from fuse4seg.progress import progress, whole_progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class TestProgress:
    def test_passes_every_item_on(self) -> None:
        assert list(progress([3, 1, 2], "counting")) == [3, 1, 2]

    def test_says_what_is_being_done_and_how_far_it_is(self, capsys: pytest.CaptureFixture[str]) -> None:
        list(progress(iter("abcd"), "checking", unit="case", total=4))
        output = capsys.readouterr()
        assert "checking: 100%" in output.err
        assert "4/4" in output.err
        assert "case" in output.err
        assert output.out == ""

    @pytest.mark.parametrize("nothing", [{"items": []}, {"items": iter(()), "total": 0}])
    def test_says_nothing_of_nothing(self, nothing: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
        assert list(progress(**nothing, doing="training")) == []
        assert capsys.readouterr().err == ""

    @pytest.mark.parametrize(("stream", "lines"), [(io.StringIO(), range(1, 4)), (Terminal(), range(10, 10_000))],
                             ids=["file", "terminal"])
    def test_updates_a_terminal_often_and_a_file_seldom(self, stream: io.StringIO, lines: range,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sys.stderr", stream)
        now = [0.0]
        monkeypatch.setattr("time.time", lambda: now[0])
        monkeypatch.setattr("tqdm.std.time", lambda: now[0])
        for _ in progress(range(50), "training"):
            now[0] += 0.2
        assert stream.getvalue().count("\r") in lines

    def test_leaves_no_bar_behind_unless_asked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        stream = Terminal()
        monkeypatch.setattr("sys.stderr", stream)
        list(progress(range(3), "training", leave=False))
        assert stream.getvalue().rstrip("\r").endswith(" ")


class TestWholeProgress:
    def test_estimates_the_end_of_all_from_what_it_saw_itself(self, monkeypatch: pytest.MonkeyPatch) -> None:
        stream, now = Terminal(), [0.0]
        monkeypatch.setattr("sys.stderr", stream)
        monkeypatch.setattr("time.time", lambda: now[0])
        monkeypatch.setattr("tqdm.std.time", lambda: now[0])
        with whole_progress("training", done=200, total=1000) as bar:
            # Fast ones at first, then slow ones: the estimate is of their mean, two seconds.
            for number in range(100):
                now[0] += 1 if number < 50 else 3
                bar.update()
            assert "300/1000 [03:20<23:20" in stream.getvalue()
        assert stream.getvalue().rstrip("\r").endswith(" ")

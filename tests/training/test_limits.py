"""What ends a training early: no better epoch for so long, and a time that is up."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuse4seg.errors import OptionError
from fuse4seg.training import limits
from fuse4seg.training.limits import RECENT, Deadline, Limits, Pace, epochs_since_best, seconds_of


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that the clock shows."""
    now = [1000.0]
    monkeypatch.setattr(limits.time, "monotonic", lambda: now[0])
    return now


class TestLimits:
    def test_are_none_unless_given(self) -> None:
        assert Limits.from_options(patience=None, max_time=None) == Limits(math.inf, math.inf)

    def test_are_read_from_options(self) -> None:
        assert Limits.from_options(patience=20, max_time="11h") == Limits(20, 39600)

    @pytest.mark.parametrize("patience", [0, -1])
    def test_refuse_a_patience_of_no_epoch(self, patience: int) -> None:
        with pytest.raises(OptionError, match=f"^--patience: must be at least 1, got {patience}."):
            Limits.from_options(patience=patience, max_time=None)


class TestSecondsOf:
    @pytest.mark.parametrize(("words", "seconds"), [("11h", 39600), ("90min", 5400), ("1h30min", 5400), ("0.5h", 1800),
                                                    ("0h1min", 60), ("0.5min", 30)])
    def test_reads_hours_and_minutes(self, words: str, seconds: float) -> None:
        assert seconds_of(words) == seconds

    @pytest.mark.parametrize("words", ["", "0h", "0min", "11", "h", "-1h", "11 h", "30min1h", "infh", "nanmin", "1d",
                                       f"1{'0' * 400}h"])
    def test_refuses_what_is_no_time(self, words: str) -> None:
        with pytest.raises(OptionError, match=r"^--max_time: .* is not understood. Give hours \(11h\), minutes"):
            seconds_of(words)


class TestEpochsSinceBest:
    @given(st.lists(st.floats(0, 1) | st.just(math.nan), max_size=30))
    def test_counts_as_nnunet_keeps_its_best_checkpoint(self, measure: list[float]) -> None:
        best, kept = None, 0
        for epoch, value in enumerate(measure):
            if not math.isnan(value) and (best is None or value > best):
                best, kept = value, epoch
        assert epochs_since_best(measure) == max(0, len(measure) - 1 - kept)


class TestDeadline:
    def test_comes_after_its_seconds_less_what_the_longest_save_took(self, clock: list[float]) -> None:
        deadline = Deadline(100)
        for seconds in (7, 4):
            with deadline.saving():
                clock[0] += seconds
        assert deadline.left() == 100 - 11 - 7
        clock[0] += 100
        assert deadline.left() == -18

    def test_has_parts(self, clock: list[float]) -> None:
        deadline = Deadline(100)
        clock[0] += 20
        assert deadline.after(0.25).left() == 20
        clock[0] += 100
        assert deadline.after(0.25).left() == 0

    def test_never_comes_unless_given(self) -> None:
        assert Deadline().left() == math.inf
        assert Deadline().after(0.5).left() == math.inf


def reachable_after(clock: list[float], seconds: list[float], *, limit: float, planned: int = 100) -> int:
    """Epochs that a pace allows after epochs of so many seconds."""
    pace = Pace(Deadline(limit))
    for each in seconds:
        clock[0] += each
        pace.epoch_is_done(whole=True)
    return pace.reachable(done=len(seconds), planned=planned)


class TestPace:
    @pytest.mark.parametrize(("seconds", "limit", "epochs"), [
        ([10], 100, 10), ([10], 99, 9), ([10], 1e9, 100), ([10], math.inf, 100), ([10, 10, 10], 29, 3),
        ([10, 20], 90, 2 + 3),  # a mean of 15, and 5 that the slower one took longer, in 60
        ([1000] + [10] * RECENT, 1500, 1 + RECENT + 40)])  # the first is forgotten
    def test_allows_what_fits_into_the_time(self, clock: list[float], seconds: list[float], limit: float, epochs: int) -> None:
        assert reachable_after(clock, seconds, limit=limit) == epochs

    def test_allows_all_until_an_epoch_is_measured_whole(self, clock: list[float]) -> None:
        pace = Pace(Deadline(100))
        clock[0] += 50
        pace.epoch_is_done(whole=False)
        assert pace.reachable(done=1, planned=100) == 100
        clock[0] += 10
        pace.epoch_is_done(whole=True)
        assert pace.reachable(done=2, planned=100) == 6

    @pytest.mark.parametrize("limit", [55.0, 100.0, 333.3])
    def test_ends_in_time_with_the_last_epoch_that_fits(self, clock: list[float], limit: float) -> None:
        """Rates that fall with the epochs allowed at each epoch's beginning reach their end there."""
        pace, end, done, allowed = Pace(Deadline(limit)), clock[0] + limit, 0, []
        while done < (epochs := pace.reachable(done=done, planned=1000)):
            allowed.append(epochs)
            clock[0] += 10 + done % 2
            pace.epoch_is_done(whole=True)
            done += 1
        assert end - 22 < clock[0] <= end
        assert allowed[-1] == done

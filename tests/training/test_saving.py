"""When a training is saved, and what a signal does to it."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fuse4seg.errors import OptionError, WorkerDiedError
from fuse4seg.model_errors import TrainingStoppedError
from fuse4seg.training import saving
from fuse4seg.training.limits import Deadline
from fuse4seg.training.saving import MidEpoch, SaveEvery, StopRequest, stop_requests


class TestSaveEvery:
    @pytest.mark.parametrize(("words", "epochs", "minutes"), [
        (["5"], 5, math.inf), (["30min"], sys.maxsize, 30), (["0.5min"], sys.maxsize, 0.5), (["5", "30min"], 5, 30),
        (["30min", "5"], 5, 30)])
    def test_reads_epochs_and_minutes(self, words: list[str], epochs: int, minutes: float) -> None:
        assert SaveEvery.from_words(words) == SaveEvery(epochs, minutes)

    @pytest.mark.parametrize("words", [["0"], ["-1"], ["1.5"], ["many"], ["0min"], ["nanmin"], ["infmin"], ["min"], ["5", "6"],
                                       ["5min", "6min"], ["5h"]])
    def test_refuses_what_is_no_pace(self, words: list[str]) -> None:
        with pytest.raises(OptionError, match=f"^--save_every: {' '.join(words)} is not understood"):
            SaveEvery.from_words(words)


class TestMidEpoch:
    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        """Seconds that the clock shows."""
        now = [0.0]
        monkeypatch.setattr(saving.time, "monotonic", lambda: now[0])
        return now

    def test_saves_when_its_minutes_have_passed_since_anything_was_saved(self, clock: list[float]) -> None:
        saved: list[float] = []
        mid_epoch = MidEpoch(lambda: saved.append(clock[0]) or Path(), minutes=2, stop=StopRequest(), deadline=Deadline())
        for second in range(0, 600, 50):
            clock[0] = second
            mid_epoch.after_iteration()
            if second == 250:
                mid_epoch.is_saved()
        assert saved == [150, 400, 550]

    def test_saves_and_ends_when_asked_to_stop(self) -> None:
        stop = StopRequest()
        mid_epoch = MidEpoch(lambda: Path("latest.pth"), minutes=math.inf, stop=stop, deadline=Deadline())
        mid_epoch.after_iteration()
        stop.signal = signal.SIGTERM
        with pytest.raises(TrainingStoppedError, match="stopped by SIGTERM; everything is saved in latest.pth") as caught:
            mid_epoch.after_iteration()
        assert caught.value.status == 143


class TestDraw:
    """A background process that is gone, by itself or by the same signal."""

    def batches(self) -> Iterator[dict[str, int]]:
        yield {"number": 0}
        raise WorkerDiedError("preparing batches")

    def test_gives_batches_and_names_a_death(self) -> None:
        batches = self.batches()
        mid_epoch = MidEpoch(lambda: Path("latest.pth"), minutes=math.inf, stop=StopRequest(), deadline=Deadline())
        assert mid_epoch.draw(batches) == {"number": 0}
        with pytest.raises(WorkerDiedError):
            mid_epoch.draw(batches)

    def test_saves_where_the_death_is_part_of_a_stop(self) -> None:
        saved: list[Path] = []
        mid_epoch = MidEpoch(lambda: saved.append(Path("latest.pth")) or saved[0], minutes=math.inf,
                             stop=StopRequest(signal.SIGTERM), deadline=Deadline())
        batches = self.batches()
        mid_epoch.draw(batches)
        with pytest.raises(TrainingStoppedError, match="stopped by SIGTERM"):
            mid_epoch.draw(batches)
        assert saved == [Path("latest.pth")]


class Handled(Exception):  # noqa: N818 (it is no error)
    """The handler that was there before."""


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    def handle(_number: int, _frame: object) -> None:
        raise Handled

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
class TestStopRequests:
    def test_note_the_first_signal_and_say_so(self, number: signal.Signals, capfd: pytest.CaptureFixture[str]) -> None:
        with stop_requests() as request:
            assert request.signal is None
            os.kill(os.getpid(), number)
            assert request.signal is number
        assert "the iteration is finished and saved first" in capfd.readouterr().err

    def test_hold_no_second_one_back(self, number: signal.Signals) -> None:
        with stop_requests():
            os.kill(os.getpid(), signal.SIGTERM)
            with pytest.raises(Handled):
                os.kill(os.getpid(), number)

    def test_leave_everything_as_it_was(self, number: signal.Signals) -> None:
        with stop_requests():
            pass
        with pytest.raises(Handled):
            os.kill(os.getpid(), number)


class TestComes:
    def test_waits_for_a_signal_that_is_on_its_way(self) -> None:
        with stop_requests() as request:
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
            assert request.comes()

    def test_does_not_wait_for_ever(self) -> None:
        with stop_requests() as request:
            assert not request.comes()


class TestThread:
    def test_other_than_the_main_one_has_no_signals_to_note(self) -> None:
        noted = []

        def work() -> None:
            with stop_requests() as request:
                noted.append(request.signal)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert noted == [None]

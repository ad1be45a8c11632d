"""Stop requests: the first signal is noted, the second is not held back, and afterwards everything is as it was."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from fuse4seg.training.saving import stop_requests


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

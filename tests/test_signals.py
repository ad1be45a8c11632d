"""Signal handlers of one process: in place within the block, gone after it, and not in forked processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time

import pytest

from fuse4seg.signals import handled

FORK = multiprocessing.get_context("fork")


class TestHandled:
    def test_calls_the_handler_within_the_block_and_the_earlier_one_after_it(self) -> None:
        called: list[str] = []
        with handled(lambda *_: called.append("outer"), (signal.SIGTERM,)):
            with handled(lambda *_: called.append("inner"), (signal.SIGTERM, signal.SIGINT)) as restore:
                os.kill(os.getpid(), signal.SIGTERM)
                os.kill(os.getpid(), signal.SIGINT)
                restore()
                os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
        assert called == ["inner", "inner", "outer", "outer"]

    @pytest.mark.parametrize("moment", [0, 0.5])
    def test_lets_forked_processes_end_as_any_other(self, moment: float) -> None:
        """At once, too: Python by itself would forget a signal that comes so early, and the process would sleep on."""
        called: list[int] = []
        with handled(lambda number, _: called.append(number), (signal.SIGTERM, signal.SIGINT)):
            for _ in range(10):
                process = FORK.Process(target=time.sleep, args=(1000,))
                process.start()
                time.sleep(moment / 10)
                process.terminate()
                process.join()
                assert process.exitcode == -signal.SIGTERM
        assert called == []

    def test_lets_pools_end(self) -> None:
        called: list[int] = []
        with handled(lambda number, _: called.append(number), (signal.SIGTERM,)):
            for _ in range(5):
                with FORK.Pool(4) as pool:
                    assert pool.map(abs, [-1]) == [1]
        assert called == []

    def test_keeps_a_signal_to_this_process_while_it_forks(self) -> None:
        called: list[int] = []
        with handled(lambda number, _: called.append(number), (signal.SIGTERM,)):
            process = FORK.Process(target=os.kill, args=(os.getpid(), signal.SIGTERM))
            process.start()
            process.join()
            assert called == [signal.SIGTERM]
            assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())

"""Handlers of signals that hold in this process alone, and not in those that it forks."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache

Handler = Callable[[int, object], None]
#: Handlers in place in this process, which forked ones must not keep.
_ours: list[Handler] = []
_masks = threading.local()


class Terminated(BaseException):
    """SIGTERM, as KeyboardInterrupt is SIGINT."""


@contextmanager
def handled(handler: Handler, numbers: Sequence[signal.Signals]) -> Iterator[Callable[[], None]]:
    """Within the block, handle signals in this process; gives a function that restores what was before, also before the end.

    Python handles signals in the main thread alone; elsewhere nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    _keep_from_forks()
    before = {number: signal.getsignal(number) or signal.SIG_DFL for number in numbers}

    def restore() -> None:
        for number, earlier in before.items():
            signal.signal(number, earlier)

    _ours.append(handler)
    for number in numbers:
        signal.signal(number, handler)
    try:
        yield restore
    finally:
        restore()
        _ours.remove(handler)


@cache
def _keep_from_forks() -> None:
    """Let forked processes end by a signal as any process does.

    A pool of processes ends its own by SIGTERM, and waits for them. Python forgets a signal that reaches a child before it is
    set up; while it is blocked, the system keeps it.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=_block, after_in_parent=_unblock, after_in_child=_unblock_in_child)


def _block() -> None:
    _masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT) if _ours else ())


def _unblock() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _masks.before)


def _unblock_in_child() -> None:
    for number, default in ((signal.SIGTERM, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
        if signal.getsignal(number) in _ours:
            signal.signal(number, default)
    _ours.clear()
    _unblock()

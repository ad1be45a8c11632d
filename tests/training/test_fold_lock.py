"""The lock of a fold: held against other processes, gone with the process that holds it."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fuse4seg.errors import UnwritableFolderError
from fuse4seg.model_errors import TrainingRunningError
from fuse4seg.training import fold_lock
from fuse4seg.training.fold_lock import LOCK, locked, require_unlocked

#: Takes the lock, forks a process that outlives it, and waits for the end of its input.
HOLDER = """
import os, sys, time
from pathlib import Path
from fuse4seg.training.fold_lock import locked
with locked(Path(sys.argv[1])):
    if os.fork() == 0:
        time.sleep(20)
        os._exit(0)
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path: Path) -> subprocess.Popen[str]:
    """Another process that holds the lock of tmp_path."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               text=True, start_new_session=True)
    assert process.stdout.readline() == "locked\n"
    yield process
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


class TestLocked:
    def test_keeps_other_processes_out_and_names_the_one_inside(self, tmp_path: Path, other: subprocess.Popen[str]) -> None:
        for attempt in (locked(tmp_path).__enter__, lambda: require_unlocked(tmp_path)):
            with pytest.raises(TrainingRunningError, match=f"^{tmp_path} is in use by process {other.pid} on "):
                attempt()

    def test_vanishes_with_a_killed_process_even_if_its_children_live(self, tmp_path: Path,
                                                                     other: subprocess.Popen[str]) -> None:
        other.kill()
        other.wait()
        assert (tmp_path / LOCK).exists()
        with locked(tmp_path):
            pass

    def test_is_given_back(self, tmp_path: Path) -> None:
        for _ in range(2):
            require_unlocked(tmp_path)
            with locked(tmp_path):
                assert (tmp_path / LOCK).read_text().startswith(f"process {os.getpid()} on ")
            assert list(tmp_path.iterdir()) == []

    def test_is_given_back_after_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(ZeroDivisionError), locked(tmp_path):
            raise ZeroDivisionError
        assert list(tmp_path.iterdir()) == []

    def test_needs_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(UnwritableFolderError, match=f"cannot write to {tmp_path / 'nowhere'}"), locked(tmp_path / "nowhere"):
            pass

    def test_warns_where_the_file_system_has_none(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                  caplog: pytest.LogCaptureFixture) -> None:
        def unsupported(*_: object) -> None:
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(fold_lock.fcntl, "lockf", unsupported)
        with locked(tmp_path):
            assert "no locks on this file system (No locks available)" in caplog.text


class TestRequireUnlocked:
    def test_writes_nothing(self, tmp_path: Path) -> None:
        require_unlocked(tmp_path / "nowhere")
        require_unlocked(tmp_path)
        assert list(tmp_path.iterdir()) == []

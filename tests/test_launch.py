"""Launching ranks: each knows its place, signals reach all, and what ends them is said once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fuse4seg import launch as launching
from fuse4seg.launch import LAST_WORDS, is_first_rank, launch, leave_last_words, stands_in_group
from fuse4seg.model_errors import LostRankError, RanksError

#: What a rank's program begins with; nothing that takes long to import.
PROGRAM = """
import os, signal, sys, time
from pathlib import Path
rank = int(os.environ["RANK"])
def say(words):
    Path(os.environ["F4S_LAST_WORDS"]).write_text(words)
def wait():
    time.sleep(60)
"""


def run(program: str, count: int = 2) -> int:
    return launch([sys.executable, "-S", "-c", PROGRAM + program], count)


def said(program: str, count: int = 2) -> tuple[str, int]:
    """The words of a launch that fails, and its status."""
    with pytest.raises(RanksError) as caught:
        run(program, count)
    return str(caught.value), caught.value.status


class TestLaunch:
    def test_tells_each_its_place(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS")
        assert run(f"Path('{tmp_path}', str(rank)).write_text(' '.join(os.environ[name] for name in {names}))", 3) == 0
        told = [(tmp_path / str(rank)).read_text().split() for rank in range(3)]
        assert [words[:5] for words in told] == [[str(rank), str(rank), "3", "3", "127.0.0.1"] for rank in range(3)]
        assert len({words[5] for words in told}) == 1
        assert int(told[0][6]) >= 1

    def test_shows_what_the_first_says_and_no_other(self, capfd: pytest.CaptureFixture[str]) -> None:
        run("print(f'rank {rank} works', file=sys.stderr)")
        assert capfd.readouterr().err == "rank 0 works\n"

    def test_ends_the_others_and_names_the_one_that_was_killed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(launching, "GRACE", 0.5)
        begin = time.monotonic()
        words = said("os.kill(os.getpid(), signal.SIGKILL) if rank == 1 else wait()", 3)
        assert words == ("rank 1 was ended by SIGKILL, and the others with it. The last checkpoint is kept: go on with --c.", 1)
        assert time.monotonic() - begin < 30

    def test_does_not_name_those_that_end_because_another_did(self) -> None:
        words, _ = said(f"os.kill(os.getpid(), signal.SIGKILL) if rank == 2 else sys.exit({LostRankError.status})", 3)
        assert words.startswith("rank 2 was ended by SIGKILL, ")

    def test_says_once_what_all_say(self) -> None:
        assert said("say('error: no room'); sys.exit(1)") == ("no room", 1)

    def test_ends_as_all_do_that_one_of_them_stopped(self) -> None:
        assert said("say('error: stopped by SIGTERM; everything is saved'); sys.exit(143)") == (
            "stopped by SIGTERM; everything is saved", 143)

    def test_says_what_the_first_says_for_all(self) -> None:
        assert said(f"say('error: a batch of 3') if rank == 0 else None; sys.exit({LostRankError.status} if rank else 1)") == (
            "a batch of 3", 1)

    def test_says_whose_fault_it_is(self) -> None:
        assert said(f"say('error: no disk') if rank else None; sys.exit(1 if rank else {LostRankError.status})") == (
            "rank 1 said: no disk", 1)
        assert said("say(f'error: no disk {rank}'); sys.exit(1)")[0] == "rank 0 said: no disk 0\nrank 1 said: no disk 1"

    def test_shows_the_end_of_an_unexpected_failure(self) -> None:
        words, _ = said(f"x = 1 / 0 if rank else sys.exit({LostRankError.status})")
        assert words.startswith("rank 1 said: Traceback")
        assert words.endswith("ZeroDivisionError: division by zero")

    def test_hands_a_signal_on_and_ends_as_the_ranks_do(self, tmp_path: Path) -> None:
        program = f"""
def stop(number, frame):
    say("stopped by SIGTERM; everything is saved") if rank == 0 else None
    os._exit(143)
signal.signal(signal.SIGTERM, stop)
Path('{tmp_path}', f"ready_{{rank}}").touch()
wait()
"""
        launcher = f"""
import sys
from fuse4seg.model_errors import RanksError
from fuse4seg.launch import launch
try:
    launch([sys.executable, "-S", "-c", {PROGRAM + program!r}], 2)
except RanksError as error:
    print(error)
    sys.exit(error.status)
"""
        process = subprocess.Popen([sys.executable, "-c", launcher], stdout=subprocess.PIPE, text=True)
        until = time.monotonic() + 60
        while len(list(tmp_path.glob("ready_*"))) < 2 and time.monotonic() < until:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
        assert (output, process.returncode) == ("stopped by SIGTERM; everything is saved\n", 143)


class TestRankOfAGroup:
    def test_leaves_its_last_words_to_the_launcher(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert not leave_last_words("nobody asked")
        monkeypatch.setenv(LAST_WORDS, str(tmp_path / "words"))
        assert leave_last_words("error: no room")
        assert (tmp_path / "words").read_text() == "error: no room"

    @pytest.mark.parametrize(("variables", "first", "group"), [
        ({}, True, False), ({"RANK": "0", "WORLD_SIZE": "1"}, True, False), ({"RANK": "0", "WORLD_SIZE": "4"}, True, True),
        ({"RANK": "3", "WORLD_SIZE": "4"}, False, True)])
    def test_knows_whether_it_is_the_first_of_several(self, variables: dict[str, str], first: bool, group: bool,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert (is_first_rank(), stands_in_group()) == (first, group)

    def test_stops_once_the_launcher_is_gone(self, tmp_path: Path) -> None:
        """The launcher is killed, and cannot tell."""
        rank = f"""
import os, signal, time
from pathlib import Path
from fuse4seg.launch import stop_with_launcher
def stop(number, frame):
    Path('{tmp_path}', 'stopped').touch()
    os._exit(0)
signal.signal(signal.SIGTERM, stop)
stop_with_launcher()
Path('{tmp_path}', 'ready').touch()
time.sleep(60)
"""
        launcher = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {rank!r}])"
        process = subprocess.Popen([sys.executable, "-c", launcher], env={**os.environ, LAST_WORDS: str(tmp_path / "words")})
        wait_for(tmp_path / "ready")
        process.kill()
        process.wait()
        wait_for(tmp_path / "stopped")


def wait_for(path: Path) -> None:
    until = time.monotonic() + 60
    while not path.exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert path.exists()

"""Commands side by side: one at a time on each device, logs apart, and what a failure or a signal does to the others."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fuse4seg import side_by_side
from fuse4seg.side_by_side import Errand, last_line, run_errands
from fuse4seg.signals import Terminated

CODE = "import os, sys; print(sys.argv[1:], os.environ.get('CUDA_VISIBLE_DEVICES')); sys.exit(int(sys.argv[1]))"


def errand(folder: Path, name: str, *, status: int = 0, code: str = CODE) -> Errand:
    def words(kind: str) -> Sequence[str]:
        return [sys.executable, "-c", code, str(status), kind]

    return Errand(name, words, folder / name / "log.txt", {**os.environ, "CUDA_VISIBLE_DEVICES": "4,7"})


def run(errands: list[Errand], *devices: str) -> dict[str, int]:
    return {done.name: status for done, status in run_errands(errands, devices=devices, doing="working", unit="errand")}


class TestRunErrands:
    def test_gives_each_its_device_and_its_log(self, tmp_path: Path) -> None:
        names = ["a", "b", "c", "d"]
        assert run([errand(tmp_path, name) for name in names], "cuda:0", "cuda:1") == dict.fromkeys(names, 0)
        said = {(tmp_path / name / "log.txt").read_text() for name in names}
        # By their number among those that the user sees.
        assert said == {"['0', 'cuda'] 4\n", "['0', 'cuda'] 7\n"}

    def test_does_the_others_where_one_fails(self, tmp_path: Path) -> None:
        errands = [errand(tmp_path, "a"), errand(tmp_path, "b", status=3), errand(tmp_path, "c")]
        assert run(errands, "cpu") == {"a": 0, "b": 3, "c": 0}

    def test_terminated_ends_what_runs_and_begins_nothing_more(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        endless = "import time; print('running', flush=True); time.sleep(100); print('ended')"
        errands = [errand(tmp_path, name, code=endless) for name in ("a", "b", "c")]

        def interrupted(futures: Any) -> Any:
            while not errands[0].log.exists() or not errands[0].log.read_text():
                time.sleep(0.01)
            raise Terminated

        monkeypatch.setattr(side_by_side, "as_completed", interrupted)
        with pytest.raises(Terminated):
            run(errands, "cpu")
        assert errands[0].log.read_text() == "running\n"
        assert not errands[1].log.exists()


class TestLastLine:
    @pytest.mark.parametrize(("log", "said"), [
        ("a bar\rerror: no.\n", "error: no."), ("Traceback\nValueError: bad\nThread-1\nEOFError\n", "ValueError: bad"),
        ("last words\n\n", "last words"), ("", "ended without a word")])
    def test_is_what_explains_the_end(self, tmp_path: Path, log: str, said: str) -> None:
        (tmp_path / "log.txt").write_text(log)
        assert last_line(tmp_path / "log.txt").startswith(f"{said} (")

"""Job scripts, run under stand-ins of SLURM's commands: every element once, and one that was stopped goes on."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from fuse4seg.errors import OptionError
from fuse4seg.slurm import script_of, submit, write_script

#: Runs every element of the script's array, again when it asks for that; notes what was asked of it.
SBATCH = """\
#!{python}
import os, re, subprocess, sys
place = os.path.dirname(os.path.abspath(__file__))
script = sys.argv[1]
last = int(re.search(r"^#SBATCH --array=0-(\\d+)$", open(script).read(), re.M).group(1))
for number in range(last + 1):
    restarts, queued = 0, True
    while queued:
        requeue = os.path.join(place, f"requeue_7_{{number}}")
        environment = {{**os.environ, "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": str(number)}}
        if restarts:
            environment["SLURM_RESTART_COUNT"] = str(restarts)
        status = subprocess.run(["bash", script], env=environment, stdout=sys.stderr).returncode
        open(os.path.join(place, "statuses"), "a").write(f"{{number}} {{status}}\\n")
        queued = os.path.exists(requeue)
        if queued:
            os.remove(requeue)
        restarts += 1
print("Submitted batch job 7")
"""
COMMANDS = {"srun": 'exec "$@"', "squeue": "echo RUNNING", "scontrol": 'touch "$(dirname "$0")/requeue_$2"'}
#: Notes its words, and is stopped the first time.
STOPPED_ONCE = """
import os, signal, sys
open(sys.argv[1], "a").write(" ".join(sys.argv[2:]) + "\\n")
if "--c" not in sys.argv:
    sys.exit(143)
"""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Function that puts stand-ins into a folder, the first in PATH, and gives that; other words for some of them."""

    def make(**changed: str) -> Path:
        folder = tmp_path / "slurm"
        folder.mkdir()
        texts = {"sbatch": SBATCH.format(python=sys.executable),
                 **{name: f"#!/bin/bash\n{words}\n" for name, words in {**COMMANDS, **changed}.items()}}
        for name, text in texts.items():
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
        return folder

    return make


def script(tmp_path: Path, *elements: list[str], first: Sequence[str] = ()) -> Path:
    text = script_of([[sys.executable, "-c", STOPPED_ONCE, str(tmp_path / "said"), *words] for words in elements], name="job",
                     folder=tmp_path / "jobs", again=["--c"], first=first)
    write_script(text, tmp_path / "jobs" / "job.sh")
    return tmp_path / "jobs" / "job.sh"


class TestScript:
    def test_gives_some_words_only_to_the_first_start(self, tmp_path: Path, cluster: Callable[..., Path]) -> None:
        cluster()
        submit(script(tmp_path, ["0"], first=["-model", "a b"]))
        assert (tmp_path / "said").read_text().splitlines() == ["0 -model a b", "0 --c"]

    def test_runs_every_element_and_goes_on_with_those_that_were_stopped(self, tmp_path: Path,
                                                                         cluster: Callable[..., Path]) -> None:
        place = cluster()
        assert submit(script(tmp_path, ["0"], ["1", "--c"], ["an odd; word"])) == "Submitted batch job 7"
        assert (tmp_path / "said").read_text().splitlines() == ["0", "0 --c", "1 --c", "an odd; word", "an odd; word --c"]
        assert (place / "statuses").read_text().split() == ["0", "143", "0", "0", "1", "0", "2", "143", "2", "0"]

    def test_leaves_a_cancelled_job_alone(self, tmp_path: Path, cluster: Callable[..., Path]) -> None:
        place = cluster(squeue="echo COMPLETING")
        submit(script(tmp_path, ["0"]))
        assert (place / "statuses").read_text() == "0 143\n"

    def test_leaves_a_failed_one_alone(self, tmp_path: Path, cluster: Callable[..., Path]) -> None:
        place = cluster()
        write_script(script_of([["false"]], name="job", folder=tmp_path), tmp_path / "job.sh")
        submit(tmp_path / "job.sh")
        assert (place / "statuses").read_text() == "0 1\n"

    def test_is_sound_and_has_what_was_asked_for(self, tmp_path: Path) -> None:
        text = script_of([["a"], ["b"]], name="job", folder=tmp_path, options={"time": "24:00:00", "signal": "TERM@60"})
        write_script(text, tmp_path / "job.sh")
        assert subprocess.run(["bash", "-n", str(tmp_path / "job.sh")], check=False).returncode == 0
        options = [shlex.split(line)[1] for line in text.splitlines() if line.startswith("#SBATCH")]
        assert options == ["--job-name=job", "--array=0-1", f"--output={tmp_path}/%A_%a.log", "--requeue", "--open-mode=append",
                           "--signal=TERM@60", "--time=24:00:00"]

    def test_keeps_words_with_blanks_whole(self, tmp_path: Path) -> None:
        folder = tmp_path / "my jobs"
        lines = script_of([["a"]], name="job", folder=folder, options={"comment": "the first try"}).splitlines()
        options = [shlex.split(line) for line in lines if line.startswith("#SBATCH")]
        assert all(len(words) == 2 for words in options)
        assert {f"--output={folder}/%A_%a.log", "--comment=the first try"} < {option for _, option in options}


class TestSubmit:
    def test_says_so_where_there_is_no_slurm(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        assert submit(tmp_path / "job.sh") is None

    def test_hands_on_why_sbatch_refused(self, tmp_path: Path, cluster: Callable[..., Path]) -> None:
        cluster(sbatch="echo 'sbatch: error: invalid partition specified: none' >&2; exit 1")
        with pytest.raises(OptionError, match=r"did not take .*job\.sh \(sbatch: error: invalid partition specified: none\)\."):
            submit(script(tmp_path, ["0"]))

"""Job scripts for SLURM: one array, whose elements each run a command, and go on by themselves after they were stopped."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from fuse4seg.errors import OptionError
from fuse4seg.files import make_writable_folder, written_whole

#: Seconds before the time limit at which a job is asked to stop: an iteration is finished and everything saved in less.
NOTICE = 300
#: What a command exits with that was asked to stop by SIGTERM, and has saved.
STOPPED = 143
#: For sbatch; what a user gives goes over it.
USUAL: Mapping[str, str] = {"requeue": "", "open-mode": "append", "signal": f"TERM@{NOTICE}"}
SCRIPT = """\
#!/bin/bash
{options}

# What each element of the array runs.
case "$SLURM_ARRAY_TASK_ID" in
{elements}
esac

# Put back into the queue, it goes on where it was stopped.
if [ "${{SLURM_RESTART_COUNT:-0}}" -gt 0 ]; then words+=({again}); else words+=({first}); fi

# SLURM's signals are for the command, which srun makes a step of the job; this shell waits for it.
trap : TERM
srun "${{words[@]}}"
status=$?

# Stopped by SIGTERM, with everything saved. A job that is being cancelled no longer runs, and stays cancelled.
this="${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID"
if [ "$status" -eq {stopped} ] && [ "$(squeue --noheader --format=%T --jobs="$this")" = RUNNING ]; then
    scontrol requeue "$this"
fi
exit "$status"
"""


def script_of(elements: Sequence[Sequence[str]], *, name: str, folder: Path, again: Sequence[str] = (),
              first: Sequence[str] = (), options: Mapping[str, str] | None = None) -> str:
    """The text of a job script.

    Args:
        elements: Words of each element's command.
        name: Of the job.
        folder: Gets a log for each element, which a further start goes on with.
        again: Words that make a command go on where it was stopped.
        first: Words that it gets only when it begins.
        options: For sbatch, by their long names without dashes; "" for those without a value.

    Example:
        >>> print(script_of([["f4s_train", "501", "2d", "0"]], name="train", folder=Path("jobs")).splitlines()[1])
        #SBATCH --job-name=train
    """
    chosen = {"job-name": name, "array": f"0-{len(elements) - 1}", "output": str(folder.absolute() / "%A_%a.log"), **USUAL,
              **(options or {})}
    lines = (f"#SBATCH --{option}{'=' if value else ''}{shlex.quote(value) if value else ''}" for option, value in chosen.items())
    cases = (f"{number}) words=({shlex.join(words)});;" for number, words in enumerate(elements))
    return SCRIPT.format(options="\n".join(lines), elements="\n".join(cases), again=shlex.join(again), first=shlex.join(first),
                         stopped=STOPPED)


def write_script(text: str, script: Path) -> None:
    """Write a job script.

    Raises:
        UnwritableFolderError: The operating system refused to write.
    """
    make_writable_folder(script.parent)
    with written_whole(script) as temporary:
        temporary.write_text(text)


def submit(script: Path) -> str | None:
    """Hand a job script to SLURM.

    Returns:
        What sbatch answers; None where there is no sbatch.

    Raises:
        OptionError: sbatch refused.
    """
    if shutil.which("sbatch") is None:
        return None
    asked = subprocess.run(["sbatch", str(script)], capture_output=True, text=True, check=False)
    if asked.returncode:
        said = (asked.stderr.strip() or f"it ended with status {asked.returncode}").splitlines()[-1]
        raise OptionError("sbatch", f"did not take {script} ({said}). Mend --sbatch, and submit again.")
    return asked.stdout.strip()

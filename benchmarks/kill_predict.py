"""Kill f4s_predict at random moments, resume it each time, and compare what it leaves with an undisturbed run's files.

Each trial begins with an empty folder, is killed once, with all its processes, at a moment drawn evenly over the undisturbed
run's time, and is resumed with --continue_prediction.

Example:
    python benchmarks/kill_predict.py -i imagesTs --trials 20 -o kills.json --flags -d 502 -c 2d -device cpu
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from timing import save, show

from fuse4seg.cli.command import make_parser, run_command
from fuse4seg.side_by_side import own_command

#: Holds times.
RECORD = "run.json"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status, 1 where an output differed."""
    parser = make_parser("Kill prediction at random moments and resume it.",
                         example="python benchmarks/kill_predict.py -i imagesTs --flags -d 502 -c 2d")
    parser.add_argument("-i", dest="images", type=Path, required=True, help="folder of cases")
    parser.add_argument("--trials", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--flags", nargs=argparse.REMAINDER, default=[], help="for f4s_predict; the last option here")
    parser.add_argument("-o", dest="output", type=Path, metavar="JSON", help="write the figures to this file, too")
    return run_command(_run, parser, arguments)


def _run(options: argparse.Namespace) -> int:
    command = own_command("predict", "-i", str(options.images), *options.flags)
    moments, rows = random.Random(options.seed), []
    with tempfile.TemporaryDirectory() as scratch:
        undisturbed = Path(scratch, "undisturbed")
        begin = time.perf_counter()
        _start(command, undisturbed).wait()
        seconds, expected = time.perf_counter() - begin, contents(undisturbed)
        for trial in range(options.trials):
            folder = Path(scratch, f"trial_{trial}")
            rows.append({"trial": trial, **_killed(command, folder, moments.uniform(0, seconds)),
                         "equal": contents(folder) == expected})
            show(rows[-1:])
    equal = sum(row["equal"] for row in rows)
    print(f"equal to an undisturbed run: {equal} of {len(rows)}")
    save({"rows": rows, "equal": equal, "trials": len(rows), "undisturbed_seconds": seconds}, options.output)
    return 0 if equal == len(rows) else 1


def _killed(command: Sequence[str], folder: Path, after: float) -> dict[str, Any]:
    """Kill a run, resume it; says when, what the kill left, and how the resumed one ended."""
    run = _start(command, folder)
    try:
        run.wait(timeout=after)
    except subprocess.TimeoutExpired:
        run.send_signal(signal.SIGKILL)
        run.wait()
    done = _done(folder / RECORD)
    resumed = _start([*command, "--continue_prediction"], folder)
    return {"killed_after": after, "cases_done": done, "status": resumed.wait()}


def _start(command: Sequence[str], output: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*command, "-o", str(output)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _done(record: Path) -> int:
    if not record.is_file():
        return 0
    return sum(case["status"] == "done" for case in json.loads(record.read_text())["cases"].values())


def contents(folder: Path) -> dict[str, str]:
    """Checksum of every file, hidden ones too, but the record, of which only the cases' names count."""
    found = {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
             for path in folder.rglob("*") if path.is_file() and path.name != RECORD}
    record = folder / RECORD
    found[RECORD] = " ".join(sorted(json.loads(record.read_text())["cases"])) if record.is_file() else ""
    return found


if __name__ == "__main__":
    sys.exit(main())

"""Wall time of f4s_plan_and_preprocess over nnUNetv2_plan_and_preprocess, both as a user runs them, from raw data.

Example:
    python benchmarks/planning.py --root DATA 502 -np 2 -o planning.json
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from timing import add_timing_flags, compare, measure, save, show

from fuse4seg.cli.command import make_parser, run_command
from fuse4seg.side_by_side import own_command

STOCK = "from nnunetv2.experiment_planning.plan_and_preprocess_entrypoints import plan_and_preprocess_entry as main; main()"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    parser = make_parser("Time planning and preprocessing beside nnU-Net's.", example="python benchmarks/planning.py 502 -np 2")
    parser.add_argument("dataset")
    parser.add_argument("-c", nargs="+", metavar="CONFIGURATION",
                        help="what to preprocess (default: all that is planned)")
    parser.add_argument("-np", type=int, default=2, help="processes of both (default: %(default)s)")
    add_timing_flags(parser, rounds=3)
    return run_command(_run, parser, arguments)


def _run(options: argparse.Namespace) -> None:
    from fuse4seg.paths import RAW, data_root, dataset_name

    raw = data_root(RAW)
    dataset = str(int(dataset_name(options.dataset, variables=(RAW,))[len("Dataset"):][:3]))
    shared = ["-d", dataset, *(["-c", *options.c] if options.c else []), "-np", str(options.np)]
    contenders = {"nnU-Net": _command([sys.executable, "-c", STOCK, *shared, "-npfp", str(options.np)], raw),
                  "Fuse4Seg": _command(own_command("plan_and_preprocess", *shared), raw)}
    rows = compare(measure(contenders, rounds=options.rounds), peer="nnU-Net")
    show(rows)
    save({"rows": rows, "configurations": options.c}, options.output)


def _command(words: Sequence[str], raw: Path) -> Callable[[], object]:
    """Run a command in a process of its own, which writes into a fresh folder."""

    def act() -> None:
        with tempfile.TemporaryDirectory() as root:
            folders = {name: str(Path(root) / name) for name in ("nnUNet_preprocessed", "nnUNet_results")}
            subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                           env={**os.environ, "nnUNet_raw": str(raw), **folders})

    return act


if __name__ == "__main__":
    sys.exit(main())

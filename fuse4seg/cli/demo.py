"""f4s_demo: the whole way on phantoms, in minutes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from fuse4seg.cli.command import make_parser, require_at_least, run_command
from fuse4seg.machine import usable_cores


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = make_parser("Make phantoms, train on them, predict unseen ones, and print their Dice.",
                         example="f4s_demo -o demo")
    parser.add_argument("-o", dest="output", type=Path, default=Path("demo"), help="output folder (default: %(default)s)")
    parser.add_argument("-device", choices=("cuda", "cpu", "mps"), help="default: a GPU where there is one")
    parser.add_argument("--seed", type=int, default=0, help="of phantoms and training (default: %(default)s)")
    return run_command(_run, parser, arguments)


def _run(options: argparse.Namespace) -> None:
    from fuse4seg.demo import run_demo

    require_at_least(0, options.seed, flag="--seed")
    evaluation = run_demo(options.output, seed=options.seed, device=options.device, processes=min(4, usable_cores()))
    print(evaluation.format())
    print(f"mean foreground Dice {evaluation.foreground_mean():.4f}")
    print(f"pictures: {options.output / 'predictions' / 'panels'}; in a browser: "
          f"{options.output / 'predictions' / 'report' / 'index.html'}")

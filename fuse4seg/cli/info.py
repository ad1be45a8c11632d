"""f4s_info: what a report of a problem needs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from fuse4seg.cli.command import make_parser, run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = make_parser("Versions, devices, roots, models, and extras that are not installed; no case is named.",
                         example="f4s_info > report.txt")
    parser.add_argument("--json", action="store_true", help="as JSON")
    return run_command(_run, parser, arguments)


def _run(options: argparse.Namespace) -> None:
    from fuse4seg.info import collect, to_text

    info = collect()
    print(json.dumps(info, indent=4) if options.json else to_text(info))

"""The pictures of our results page, from the figures in benchmarks/figures: SVG, and PNG for those who cannot show it.

Example:
    python benchmarks/result_pictures.py documentation/images
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from result_tables import FIGURES

from fuse4seg.cli.command import make_parser, run_command
from fuse4seg.comparison.plots import Plot, curve_plot, difference_plot, readability_plot
from fuse4seg.files import written_whole

#: Whose curves are shown.
LEARNING = ("stacked", "fuse4seg", "grey")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = make_parser("Draw the pictures of the results page.",
                         example="python benchmarks/result_pictures.py documentation/images")
    parser.add_argument("folder", type=Path, help="gets them")
    return run_command(_run, parser, arguments)


def _run(options: argparse.Namespace) -> None:
    for path in write_pictures(options.folder):
        print(path)


def pictures(figures: Path = FIGURES) -> dict[str, Plot]:
    """By name, a picture for each question that a file of figures answers."""
    found: dict[str, Plot | None] = {}
    for path in sorted(figures.glob("compare_*.json")):
        comparison = json.loads(path.read_text())
        name = path.stem.removeprefix("compare_")
        found |= {f"differences_{name}": difference_plot(comparison["results"]),
                  f"readability_{name}": readability_plot(comparison["results"], comparison["trivial"]),
                  f"learning_{name}": curve_plot(comparison["results"], rows=LEARNING)}
    return {name: plot for name, plot in found.items() if plot is not None}


def write_pictures(folder: Path, figures: Path = FIGURES) -> list[Path]:
    """Write each picture as SVG and PNG, the same bytes for the same figures; returns the files."""
    written = []
    for name, plot in pictures(figures).items():
        drawing, bitmap = folder / f"{name}.svg", folder / f"{name}.png"
        with written_whole(drawing) as temporary:
            temporary.write_text(plot.svg)
        with written_whole(bitmap) as temporary:
            plot.figure.savefig(temporary, format="png", dpi=150, metadata={"Software": None})
        written += [drawing, bitmap]
    return written


if __name__ == "__main__":
    sys.exit(main())

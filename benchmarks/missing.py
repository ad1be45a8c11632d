"""Dice lost when a modality is missing at prediction: each in turn, by our rows and by stock nnU-Net, which is given zeros.

Takes a comparison that f4s_compare trained. Row ``dropout`` is ours, trained with modalities left out at random.

Example:
    f4s_compare 505 2d -o comparison --rows stacked fuse4seg dropout -f 0 1
    python benchmarks/missing.py --root DATA comparison 505 2d --rows stacked fuse4seg dropout --folds 0 1 -o missing.json
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from validation_cases import Ours, Segment, Stock, add_comparison_flags, losses, measure, stock_labels

from fuse4seg.cli.command import make_parser, run_command

COMPLETE = "complete"


def without(name: str) -> str:
    """The condition under which this modality is missing."""
    return f"no {name}"


def present(condition: str, modalities: Sequence[str]) -> tuple[bool, ...]:
    """Which modalities are there."""
    return tuple(without(name) != condition for name in modalities)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    parser = make_parser("Dice of the validation cases with every modality missing in turn.",
                         example="python benchmarks/missing.py comparison 505 2d --rows stacked fuse4seg dropout")
    add_comparison_flags(parser)
    return run_command(_run, parser, arguments)


def _run(options: argparse.Namespace) -> None:
    found = measure(options, lambda modalities: (COMPLETE, *map(without, modalities)), ours=_told, stock=_given_zeros)
    print(losses(found, unchanged=COMPLETE))


def _told(ours: Ours) -> Segment:
    """Our model, told what is missing."""
    from fuse4seg.datasets.dataset_json import channel_names

    modalities = channel_names(ours.description.dataset_json)
    return lambda case, condition: ours.segment(case, present(condition, modalities))


def _given_zeros(stock: Stock) -> Segment:
    """Stock nnU-Net, given 0 for what is missing: the mean after normalisation, and what a file of zeros becomes."""
    from fuse4seg.datasets.dataset_json import channel_names

    modalities = channel_names(stock.description.dataset_json)

    def segment(case: str, condition: str) -> np.ndarray:
        data, _, _, properties = stock.dataset.load_case(case)
        there = np.reshape(present(condition, modalities), (-1, 1, 1, 1))
        return stock_labels(stock, np.where(there, data[:], 0).astype(np.float32), properties)

    return segment


if __name__ == "__main__":
    sys.exit(main())

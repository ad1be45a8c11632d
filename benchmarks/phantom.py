"""A planned phantom dataset to measure on: both modalities and plan as a user without a GPU would have them.

Example:
    python benchmarks/phantom.py --root bench/data
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence

from fuse4seg.cli.command import make_parser, run_command

DATASET = 998


def main(arguments: Sequence[str] | None = None) -> int:
    """Write and plan it, in place of an earlier one; returns the exit status."""
    parser = make_parser("Write a phantom dataset, plan and preprocess it.",
                         example="python benchmarks/phantom.py --root bench/data")
    parser.add_argument("-gpu_memory_target", type=float, default=1.0)
    parser.add_argument("--set", dest="changes", nargs="+", metavar="SECTION.ENTRY=VALUE",
                        default=["follower.features=16", "patches.largest_batch=8"], help="of the recipe (default: %(default)s)")
    return run_command(_run, parser, arguments)


def _run(options: argparse.Namespace) -> None:
    from fuse4seg.datasets.phantom import write_phantom_dataset
    from fuse4seg.files import make_writable_folder
    from fuse4seg.paths import PREPROCESSED, RAW, RESULTS, data_root
    from fuse4seg.planning.fingerprint import extract_fingerprint
    from fuse4seg.planning.options import PlanOptions
    from fuse4seg.planning.planner import plan_experiment
    from fuse4seg.planning.preprocess import preprocess
    from fuse4seg.plans import PLANS_NAME

    for root in (RAW, PREPROCESSED, RESULTS):
        make_writable_folder(data_root(root))
        for folder in data_root(root).glob(f"Dataset{DATASET}_*"):
            shutil.rmtree(folder)
    write_phantom_dataset(data_root(RAW), dataset_id=DATASET, training_cases=10, test_cases=1, seed=0)
    extract_fingerprint(DATASET, processes=1)
    plan_experiment(DATASET, PlanOptions(changes=tuple(options.changes), gpu_memory_target=options.gpu_memory_target,
                                         plans_name=PLANS_NAME))
    preprocess(DATASET, configurations=["2d"], processes=1)


if __name__ == "__main__":
    sys.exit(main())

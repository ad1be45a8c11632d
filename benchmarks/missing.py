"""Dice of the test cases with every modality missing in turn, by the modality dropout that the model was trained with.

Example:
    f4s_demo -o demo
    python benchmarks/missing.py --root demo/data 999 2d --rates 0 0.25 --seeds 0 1
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from training_flags import add_training_flags, budget

from fuse4seg.cli.command import make_parser, run_command
from fuse4seg.cli.train import fold


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    parser = make_parser("Train with several rates of modality dropout; score imagesTs with each modality missing in turn.",
                         example="python benchmarks/missing.py 999 2d --rates 0 0.25 --epochs 10 --iterations 50")
    add_training_flags(parser, dataset="planned and preprocessed, with imagesTs and labelsTs among the raw data")
    parser.add_argument("-f", dest="fold", type=fold, default=0)
    parser.add_argument("--rates", type=float, nargs="+", default=[0, 0.1, 0.25, 0.5])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--disable_tta", action="store_true", help="predict without mirroring")
    parser.add_argument("--results", type=Path, help="keep the trained models here, and go on with those that are there")
    parser.add_argument("-o", dest="output", type=Path, help="write the figures to this JSON file, too")
    return run_command(_run, parser, arguments)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: a line per training, Dice with nothing missing, with each modality missing, and the mean of these."""
    missing = list(rows[0]["missing"])
    lines = [["dropout", "seed", "nothing missing", *(f"no {name}" for name in missing), "mean with one missing"]]
    lines.append(["---"] * len(lines[0]))
    for row in rows:
        dice = [row["complete"], *row["missing"].values(), statistics.mean(row["missing"].values())]
        lines.append([f"{row['dropout']:g}", str(row["seed"]), *(f"{value:.3f}" for value in dice)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _run(options: argparse.Namespace) -> None:
    from fuse4seg.files import write_json
    from fuse4seg.paths import RESULTS

    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for seed in options.seeds:
            for dropout in options.rates:
                os.environ[RESULTS] = str((options.results or Path(scratch)).absolute() / f"dropout_{dropout:g}_seed_{seed}")
                rows.append(_measure(options, dropout, seed))
                if options.output:
                    write_json(rows, options.output)
    print(table(rows))


def _measure(options: argparse.Namespace, dropout: float, seed: int) -> dict[str, Any]:
    """Train once, and score every set of test images."""
    from fuse4seg.datasets.dataset_json import channel_names, read_dataset_json
    from fuse4seg.inference.find_model import find_model
    from fuse4seg.inference.model import load_model
    from fuse4seg.machine import choose_device
    from fuse4seg.paths import RAW, data_root, dataset_name
    from fuse4seg.training.run import Training, make_trainer

    changes = (*budget(options), f"training.modality_dropout={dropout}")
    training = Training(options.dataset, options.configuration, options.fold, options.plans, device=options.device,
                        changes=changes)
    start = time.perf_counter()
    make_trainer(training, seed=seed, resume=True).run_training()
    seconds = time.perf_counter() - start
    model = find_model(dataset=options.dataset, configuration=options.configuration)
    loaded = load_model(model.folder, folds=model.folds, device=choose_device(options.device), mirroring=not options.disable_tta)
    raw = data_root(RAW) / dataset_name(options.dataset)
    names = channel_names(read_dataset_json(raw))
    return {"dropout": dropout, "seed": seed, "training_seconds": seconds, "complete": _score(loaded, raw, None),
            "missing": {name: _score(loaded, raw, channel) for channel, name in enumerate(names)}}


def _score(model: Any, raw: Path, missing: int | None) -> float:
    """Mean foreground Dice of the test cases without the channel ``missing``; None takes nothing away."""
    from fuse4seg.evaluation.folders import evaluate_folders
    from fuse4seg.inference.predict_folder import Conduct, predict_folder

    with tempfile.TemporaryDirectory() as scratch:
        images, output = Path(scratch, "images"), Path(scratch, "output")
        images.mkdir()
        ending = model.description.dataset_json["file_ending"]
        for path in (raw / "imagesTs").glob(f"*{ending}"):
            if missing is None or not path.name.endswith(f"_{missing:04d}{ending}"):
                (images / path.name).symlink_to(path.absolute())
        predict_folder(model, images, output, folds=(0,), conduct=Conduct(allow_missing=True))
        return evaluate_folders(output, raw / "labelsTs", dataset_json=model.description.dataset_json).foreground_mean()


if __name__ == "__main__":
    sys.exit(main())

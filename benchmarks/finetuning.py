"""What fine-tuning saves: after which part of the iterations it reaches the Dice of a whole training from scratch.

A model of the source dataset is trained first. Then the target is trained from scratch for the whole budget, and fine-tuned for
an eighth, a quarter, a half and all of it: each a training of its own whose learning rates fall to their end, as a checkpoint out
of the middle of a longer one is scored at rates that are still high. Every training is validated by the command. What is done
is not done again.

Example:
    python benchmarks/finetuning.py --root data 503 502 2d -f 0 1 --epochs 40 --iterations 25 -o finetuning.json
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from timing import save, show

from fuse4seg.cli.command import make_parser, run_command
from fuse4seg.cli.train import fold
from fuse4seg.paths import FINAL

SCRATCH, FINE_TUNED = "from scratch", "fine-tuned"
#: Parts of the whole budget that are fine-tuned; with --curve trained from scratch, too.
PARTS = (0.125, 0.25, 0.5, 1.0)

#: Dice of each case, by its name.
Dice = Mapping[str, float]


@dataclass(frozen=True)
class Trial:
    """A training of the target.

    Attributes:
        start: SCRATCH or FINE_TUNED.
        part: Of the whole budget.
        fold: Of the splits.
    """

    start: str
    part: float
    fold: int | str


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    parser = make_parser("Fine-tune with several budgets, and compare with a training from scratch.",
                         example="python benchmarks/finetuning.py 503 502 2d -f 0 1 -o finetuning.json")
    parser.add_argument("source", help="dataset of the model to begin with, planned and preprocessed")
    parser.add_argument("target", help="dataset to be fine-tuned on, planned alike and preprocessed")
    parser.add_argument("configuration")
    parser.add_argument("-p", dest="plans", default="Fuse4SegPlans")
    parser.add_argument("-f", dest="folds", type=fold, nargs="+", default=[0], help="folds of the target (default: 0)")
    parser.add_argument("--source_fold", type=fold, default=0, help="fold of the source (default: %(default)s)")
    parser.add_argument("-device", choices=("cuda", "cpu", "mps"))
    parser.add_argument("--epochs", type=int, default=40, help="of the whole budget, a multiple of 8 (default: %(default)s)")
    parser.add_argument("--iterations", type=int, default=25, help="of each epoch (default: %(default)s)")
    parser.add_argument("--curve", action="store_true", help="also train from scratch with the smaller budgets")
    parser.add_argument("--set", nargs="+", default=[], dest="changes", metavar="ENTRY=VALUE", help="of the target's recipe")
    parser.add_argument("-o", dest="output", type=Path, metavar="JSON", help="write the figures to this file, too")
    return run_command(_run, parser, arguments)


def _run(options: argparse.Namespace) -> None:
    from fuse4seg.errors import OptionError

    if options.epochs % 8 or options.epochs < 8:
        raise OptionError("--epochs", f"must be a multiple of 8, of which an eighth is trained, got {options.epochs}.")
    scores: dict[Trial, Dice] = {}
    source = _trained(options, options.source, options.source_fold, options.epochs, start=None)
    for trial in trials(options.folds, curve=options.curve):
        model = _trained(options, options.target, trial.fold, round(trial.part * options.epochs),
                         start=source / FINAL if trial.start == FINE_TUNED else None)
        scores[trial] = dice_of(model / "validation" / "summary.json")
        rows = compare(scores)
        save({"source": options.source, "target": options.target, "configuration": options.configuration,
              "iterations": options.epochs * options.iterations, "rows": rows, "needed": needed(scores),
              "cases": [{**vars(one), "dice": dict(found)} for one, found in scores.items()]}, options.output)
    show(compare(scores))
    part = needed(scores)
    print(f"iterations needed for the Dice of {options.epochs * options.iterations} from scratch: "
          + ("more than these" if part is None else f"{part:g} of them"))


def trials(folds: Sequence[int | str], *, curve: bool = False) -> list[Trial]:
    """All trainings of the target; those of the whole budget from scratch come first, as all others are compared with them."""
    scratch = [part for part in reversed(PARTS) if curve or part == 1]
    return [*(Trial(SCRATCH, part, number) for part in scratch for number in folds),
            *(Trial(FINE_TUNED, part, number) for part in PARTS for number in folds)]


def compare(scores: Mapping[Trial, Dice]) -> list[dict[str, Any]]:
    """A row for each start and budget: mean Dice of the cases, and the mean difference to the same cases of SCRATCH, whole."""
    peers = _cases(scores, SCRATCH, 1.0)
    rows = []
    for start, part in dict.fromkeys((trial.start, trial.part) for trial in scores):
        found = _cases(scores, start, part)
        shared = [case for case in found if case in peers]
        rows.append({"start": start, "part": part, "cases": len(found), "dice": _mean(list(found.values())),
                     "difference": _mean([found[case] - peers[case] for case in shared])})
    return rows


def needed(scores: Mapping[Trial, Dice]) -> float | None:
    """The smallest part of the budget from which on fine-tuning is no worse than the whole training from scratch.

    A small part that is as good by luck, and a larger one that is not, do not count. None where no part will do.
    """
    by_part = {row["part"]: row["difference"] for row in compare(scores) if row["start"] == FINE_TUNED}
    found = None
    for part in sorted(by_part, reverse=True):
        if not by_part[part] >= 0:
            break
        found = part
    return found


def dice_of(summary: Path) -> dict[str, float]:
    """Mean Dice over the classes of each case, by its name; classes that neither has are left out."""
    from fuse4seg.errors import UnreadableRecordError
    from fuse4seg.files import read_json

    found = {}
    for entry in read_json(summary, lambda path, reason="is missing": UnreadableRecordError(path, reason))["metric_per_case"]:
        values = [metrics["Dice"] for metrics in entry["metrics"].values() if metrics["Dice"] == metrics["Dice"]]
        found[Path(entry["prediction_file"]).name] = _mean(values)
    return found


def _cases(scores: Mapping[Trial, Dice], start: str, part: float) -> dict[str, float]:
    """Of all folds together: a case is validated by one."""
    return {case: value for trial, found in scores.items() if (trial.start, trial.part) == (start, part)
            for case, value in found.items() if value == value}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")


def _trained(options: argparse.Namespace, dataset: str, number: int | str, epochs: int, *, start: Path | None) -> Path:
    """Folder of a fold, trained and validated; one that was cut short is gone on with. Those of each beginning lie apart."""
    from fuse4seg.files import checksum
    from fuse4seg.paths import RESULTS, data_root, dataset_name
    from fuse4seg.training.run import Training, train

    changes = (f"training.epochs={epochs}", f"training.iterations={options.iterations}", *options.changes)
    training = Training(dataset, options.configuration, number, options.plans, device=options.device, changes=changes)
    usual = data_root(RESULTS)
    results = usual if start is None else usual / f"fine_tuned_from_{checksum(start)[:12]}"
    place = results / dataset_name(dataset) / training.folder_name / f"fold_{number}"
    if (place / "validation" / "summary.json").is_file():
        return place
    os.environ[RESULTS] = str(results)
    try:
        has_begun = any(place.glob("*.pth"))
        train(training, resume=has_begun, pretrained_weights=None if has_begun else start)
    finally:
        os.environ[RESULTS] = str(usual)
    return place


if __name__ == "__main__":
    sys.exit(main())

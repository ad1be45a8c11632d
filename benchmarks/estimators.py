"""Train with every hypergradient, with and without pre-training, over several seeds: Dice of fold 0, as a table and a picture.

Rows whose training is there already are read, not trained again, so the comparison can be stopped and taken up. Stage 1 does not
depend on the estimator: it is made once per seed.

Example:
    python benchmarks/estimators.py 502 2d --root DATA --rows ROWS -o estimators.json --picture estimators.png
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fuse4seg.cli.command import make_parser, run_command

TRAINER = "Fuse4SegTrainer__Fuse4SegPlans"


class Row(NamedTuple):
    """One training."""

    estimator: str
    pretrain_epochs: int
    seed: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.estimator}_p{self.pretrain_epochs}_s{self.seed}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison; returns the exit status."""
    parser = make_parser("Compare the hypergradients on fold 0 of a dataset.",
                         example="python benchmarks/estimators.py 502 2d --rows ROWS -o estimators.json")
    parser.add_argument("dataset")
    parser.add_argument("configuration")
    parser.add_argument("--rows", type=Path, required=True, help="folder of the trainings, one results root each")
    parser.add_argument("--estimators", nargs="+", default=["joint", "gauss_newton", "unrolled"])
    parser.add_argument("--pretrain_epochs", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--iterations", type=int, default=50)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only_read", action="store_true", help="train nothing; the table of what is there")
    parser.add_argument("-o", dest="output", type=Path, required=True, help="figures as JSON; those of earlier runs are kept")
    parser.add_argument("--picture", type=Path, help="losses of both levels and the ratio r of the first seed")
    return run_command(_run, parser, arguments)


def _run(options: argparse.Namespace) -> None:
    from fuse4seg.files import write_json
    from fuse4seg.paths import PREPROCESSED, dataset_name

    place = Path(dataset_name(options.dataset, variables=(PREPROCESSED,)), f"{TRAINER}__{options.configuration}", "fold_0")
    figures = json.loads(options.output.read_text()) if options.output.is_file() else {}
    for row in (Row(estimator, epochs, seed) for seed in options.seeds for epochs in (options.pretrain_epochs, 0)
                for estimator in options.estimators):
        fold = options.rows / row.name / place
        if row.name not in figures and not options.only_read and not (fold / "validation" / "summary.json").is_file():
            _train(row, options, place)
        if (fold / "validation" / "summary.json").is_file():
            figures[row.name] = read_row(row, fold)
            write_json(figures, options.output)
    print(table(figures))
    if options.picture:
        draw(figures, options.picture, seed=options.seeds[0])


def _train(row: Row, options: argparse.Namespace, place: Path) -> None:
    """By the command, in a results root of the row's own."""
    fold = options.rows / row.name / place
    made = next((options.rows / f"{estimator}_p{row.pretrain_epochs}_s{row.seed}" / place / "pretrained.pth"
                 for estimator in options.estimators if row.pretrain_epochs), None)
    if made is not None and made.is_file() and not (fold / "pretrained.pth").exists():
        fold.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(made, fold / "pretrained.pth")
    subprocess.run(["f4s_train", options.dataset, options.configuration, "0", "--c", "--hypergradient", row.estimator,
                    "--seed", str(row.seed), "--pretrain_epochs", str(row.pretrain_epochs),
                    "--epochs", str(options.epochs), "--iterations", str(options.iterations)],
                   check=True, env={**os.environ, "nnUNet_results": str(options.rows / row.name)})


def read_row(row: Row, fold: Path) -> dict[str, Any]:
    """Dice per class, and each epoch's losses and ratio, of a finished training."""
    from fuse4seg.training.checkpoint import load_checkpoint

    summary = json.loads((fold / "validation" / "summary.json").read_text())
    logged = load_checkpoint(fold / "checkpoint_final.pth")["logging"]
    history = {name: [round(float(value), 4) for value in logged[name]] for name in ("upper", "lower", "fusion", "ratio")}
    return {**row._asdict(), "dice": {label: scores["Dice"] for label, scores in summary["mean"].items()},
            "mean_dice": summary["foreground_mean"]["Dice"], "history": history}


def table(figures: dict[str, dict[str, Any]]) -> str:
    """Mean Dice over the seeds, with its standard deviation, one row per estimator, as Markdown."""
    groups: dict[tuple[str, bool], list[dict[str, Any]]] = {}
    for entry in figures.values():
        groups.setdefault((entry["estimator"], bool(entry["pretrain_epochs"])), []).append(entry)
    lines = ["| hypergradient | pre-trained | seeds | mean Dice | per seed | per class |", "| --- " * 6 + "|"]
    for (estimator, pretrained), entries in sorted(groups.items(), key=lambda item: (item[0][0], not item[0][1])):
        means = [entry["mean_dice"] for entry in entries]
        spread = f" ± {statistics.stdev(means):.3f}" if len(means) > 1 else ""
        classes = " / ".join(f"{statistics.mean(entry['dice'][label] for entry in entries):.3f}" for label in entries[0]["dice"])
        lines.append(f"| `{estimator}` | {'yes' if pretrained else 'no'} | {len(means)} | {statistics.mean(means):.3f}{spread} | "
                     f"{' '.join(f'{mean:.3f}' for mean in means)} | {classes} |")
    return "\n".join(lines)


def draw(figures: dict[str, dict[str, Any]], path: Path, *, seed: int) -> None:
    """Both levels' losses of each pre-trained training with this seed, and the ratio r of the one that has it."""
    import matplotlib.pyplot as plt

    from fuse4seg.files import written_whole

    shown = [entry for entry in figures.values() if entry["seed"] == seed and entry["pretrain_epochs"]]
    figure, (losses, ratio) = plt.subplots(1, 2, figsize=(10, 3.6), constrained_layout=True)
    for colour, entry in enumerate(shown):
        for level, style in (("upper", "-"), ("lower", "--")):
            losses.plot(range(1, 1 + len(entry["history"][level])), entry["history"][level], style, color=f"C{colour}",
                        label=f"{entry['estimator']}, {level}")
        if entry["estimator"] == "gauss_newton":
            ratio.plot(range(1, 1 + len(entry["history"]["ratio"])), entry["history"]["ratio"], color=f"C{colour}")
    losses.set(title="segmentation loss of both levels", xlabel="epoch")
    losses.legend()
    ratio.axhline(0, color="grey", linewidth=0.5)
    ratio.set(title="ratio r of gauss_newton", xlabel="epoch")
    with written_whole(path) as temporary:
        figure.savefig(temporary, dpi=100)
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())

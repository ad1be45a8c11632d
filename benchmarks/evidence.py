"""The evidence of our results page: trains what is still missing of it, and writes its figures, tables and pictures.

evidence.toml names the comparisons. What was measured lies in benchmarks/figures, so that this goes on where it was stopped, on
another machine, too. Without --root nothing is trained: tables and pictures are made anew of the figures.

Example:
    python benchmarks/evidence.py --list
    python benchmarks/evidence.py --root DATA -o WORK --devices cpu cpu --minutes 120
    python benchmarks/evidence.py
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import tomllib

sys.path.insert(0, str(Path(__file__).parent))

from result_tables import FIGURES, fill_tables, merge, save_figures

from fuse4seg.cli.command import make_parser, require_at_least, run_command
from fuse4seg.comparison.report import difference
from fuse4seg.comparison.rows import PEER
from fuse4seg.comparison.trainings import place_of
from fuse4seg.errors import OptionError
from fuse4seg.evaluation.table import format_table
from fuse4seg.files import written_whole
from fuse4seg.side_by_side import own_command

log = logging.getLogger(__name__)

STEPS = Path(__file__).with_suffix(".toml")
DOCUMENTATION = Path(__file__).parents[1] / "documentation"
PAGE, PICTURES = DOCUMENTATION / "explanation" / "results.md", DOCUMENTATION / "images"
#: Of a training: fold, seed and row.
Training = tuple[int, int, str]


@dataclass(frozen=True)
class Step:
    """A comparison.

    Attributes:
        figures: Name of its file in benchmarks/figures, and of its folder.
        dataset: Its id.
        configuration: Such as 2d.
        plans: Their name.
        changes: Of the usual recipe, in these plans.
        rows: As f4s_compare takes them, in the order wanted.
        folds, seeds: Of each row.
        variants: Further rows, as f4s_compare's --variant takes them: what differs, by name.
        leave_one_out: A fold for each case, in place of nnU-Net's five.
    """

    figures: str
    dataset: int
    configuration: str
    plans: str
    changes: tuple[str, ...]
    rows: tuple[str, ...]
    folds: tuple[int, ...] = (0, 1, 2, 3, 4)
    seeds: tuple[int, ...] = (0,)
    variants: Mapping[str, str] = field(default_factory=dict)
    leave_one_out: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Of all rows."""
        return (*self.rows, *self.variants)

    @property
    def trainings(self) -> list[Training]:
        """All of them, whole rows first."""
        return [(fold, seed, row) for row in self.names for seed in self.seeds for fold in self.folds]


def read_steps(path: Path = STEPS) -> list[Step]:
    """The comparisons of a file, in its order."""
    return [Step(**{name: tuple(entry) if isinstance(entry, list) else entry for name, entry in step.items()})
            for step in tomllib.loads(path.read_text())["step"]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = make_parser("Train what the results page still lacks, and write its figures, tables and pictures.",
                         example="python benchmarks/evidence.py --root DATA -o WORK --devices cpu cpu --minutes 120")
    parser.add_argument("-o", dest="output", type=Path, help="folder of the trainings; without it nothing is trained")
    parser.add_argument("--steps", nargs="+", metavar="FIGURES", help="default: all of evidence.toml")
    parser.add_argument("--devices", nargs="+", default=["cpu"], help="as f4s_compare takes them (default: cpu)")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no training after so many")
    parser.add_argument("--list", action="store_true", help="only say what is measured, and what is missing")
    return run_command(_run, parser, arguments)


def _run(options: argparse.Namespace) -> None:
    steps = {step.figures: step for step in read_steps()}
    if unknown := [name for name in options.steps or () if name not in steps]:
        raise OptionError("--steps", f"unknown: {', '.join(unknown)}. Choose from: {', '.join(steps)}.")
    require_at_least(0, options.minutes, flag="--minutes")
    chosen = [steps[name] for name in options.steps or steps]
    if options.list:
        print(state_of(chosen))
        return
    until = time.monotonic() + 60 * options.minutes
    for step in chosen if options.output is not None else ():
        _measure(step, options.output, devices=options.devices, until=until)
    write_page(PAGE)


def read_figures(name: str) -> dict[str, Any] | None:
    """What was measured of a step so far."""
    path = FIGURES / f"{name}.json"
    return json.loads(path.read_text()) if path.is_file() else None


def missing(step: Step, figures: dict[str, Any] | None) -> list[Training]:
    """Trainings of a step that the figures lack, whole rows first."""
    known = {(one["fold"], one["seed"], one["name"]) for one in (figures or {"results": []})["results"]}
    return [training for training in step.trainings if training not in known]


def calls(trainings: Sequence[Training], *, at_once: int) -> Iterator[list[Training]]:
    """Trainings of one row and seed each, as many as run at once."""
    for _, alike in groupby(trainings, key=lambda training: training[1:]):
        waiting = list(alike)
        yield from (waiting[first:first + at_once] for first in range(0, len(waiting), at_once))


def state_of(steps: Sequence[Step]) -> str:
    """A table: of each row the folds that are measured, and the Dice so far."""
    rows = []
    for step in steps:
        figures = read_figures(step.figures)
        lacking = missing(step, figures)
        for row in step.names:
            left = sum(name == row for *_, name in lacking)
            test = None if figures is None else difference(figures["results"], row, PEER)
            rows.append([step.figures, row, f"{len(step.folds) * len(step.seeds) - left} of {len(step.folds) * len(step.seeds)}",
                         "" if test is None else f"{test.difference:+.3f}"])
    return format_table(["figures", "row", "trainings", "Dice less stacked"], rows)


# ------------------------------------------------------------------------------ trainings

def _measure(step: Step, output: Path, *, devices: Sequence[str], until: float) -> None:
    """Train what is missing, and add it to the figures after each call."""
    waiting = list(calls(missing(step, read_figures(step.figures)), at_once=len(devices)))
    if waiting:
        _plan(step)
    place = output / step.figures
    for trainings in waiting:
        if time.monotonic() > until:
            log.info("%s: the time is over; begin again to go on", step.figures)
            return
        folds, (_, seed, row) = [fold for fold, *_ in trainings], trainings[0]
        named = ("--rows", "--variant", f"{row}={step.variants[row]}") if row in step.variants else ("--rows", row)
        _call("compare", str(step.dataset), step.configuration, "-p", step.plans, "-o", str(place), *named, "-f",
              *map(str, folds), "--seed", str(seed), "--devices", *devices)
        figures, found = read_figures(step.figures), found_in(place)
        if all(place_of(place, row, fold, seed).is_dir() for fold in step.folds):
            found["postprocessing"] = [post_processed(step, place, row, seed)]
        save_figures(found if figures is None else merge(figures, found), FIGURES / f"{step.figures}.json")


def found_in(place: Path) -> dict[str, Any]:
    """What a comparison found, with calls that name its folder alone, wherever it lies."""
    found = json.loads((place / "comparison.json").read_text())
    calls = [{**call, "command": call["command"].replace(str(place), place.name)} for call in found["calls"]]
    return {**found, "calls": calls}


def _plan(step: Step) -> None:
    """Plan and preprocess, unless that is done."""
    from fuse4seg.datasets.splits import SPLITS_FILE
    from fuse4seg.files import write_json
    from fuse4seg.paths import PREPROCESSED, data_root, dataset_name

    folder = data_root(PREPROCESSED) / dataset_name(str(step.dataset))
    if not (folder / f"{step.plans}.json").is_file():
        _call("plan_and_preprocess", "-d", str(step.dataset), "-c", step.configuration, "-p", step.plans, "--set", *step.changes)
    if step.leave_one_out:
        cases = sorted(path.name.removesuffix(".nii.gz") for path in (folder / "gt_segmentations").glob("*.nii.gz"))
        write_json([{"train": [one for one in cases if one != case], "val": [case]} for case in cases], folder / SPLITS_FILE)


def _call(command: str, *words: str) -> None:
    """Run a command of ours; this process's roots are its roots."""
    done = subprocess.run(own_command(command, *words), check=False, env=os.environ)
    if done.returncode:
        sys.exit(f"f4s_{command} {' '.join(words)} failed.")


def post_processed(step: Step, place: Path, row: str, seed: int) -> dict[str, Any]:
    """Dice and HD95 of a row's validation cases after rules that were learnt on the other folds.

    Args:
        step: Of the row.
        place: Folder of the comparison, with trainings of all folds.
        row: Its name.
        seed: Of the trainings.

    Returns:
        ``name``, ``seed``, ``rules`` (those learnt on all folds, in words), and by case the means over its classes of Dice and
        HD95 (mm); None where undefined.
    """
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from fuse4seg.datasets.dataset_json import read_dataset_json
    from fuse4seg.evaluation.bootstrap import defined_mean
    from fuse4seg.evaluation.learn_postprocessing import Scoring, ValidationCase, learn
    from fuse4seg.paths import PREPROCESSED, data_root, dataset_name
    from fuse4seg.plans import read_plans

    source = data_root(PREPROCESSED) / dataset_name(str(step.dataset))
    dataset_json = read_dataset_json(source)
    reader = PlansManager(read_plans(source / f"{step.plans}.json")).image_reader_writer_class
    ending = dataset_json["file_ending"]
    predicted = {fold: sorted(place_of(place, row, fold, seed).glob(f"*/*/fold_{fold}/validation/*{ending}"))
                 for fold in step.folds}
    cases = [ValidationCase(path.name.removesuffix(ending), fold, path, source / "gt_segmentations" / path.name)
             for fold, paths in predicted.items() for path in paths]
    scoring = Scoring(cases, dataset_json, reader)
    learnt = learn(scoring)
    scored = [case.case for number, case in enumerate(cases) if number not in scoring.faults]
    means = [[defined_mean(values) for values in case] for case in learnt.held_out.transpose(1, 0, 2).tolist()]
    return {"name": row, "seed": seed, "rules": [str(rule) for rule in learnt.rules],
            "cases": {case: [None if math.isnan(value) else value for value in values]
                      for case, values in zip(scored, means, strict=True)}}


# ------------------------------------------------------------------------------ the page

def write_page(page: Path) -> None:
    """Tables and pictures of the results page, the same bytes for the same figures."""
    from result_pictures import write_pictures

    text = fill_tables(page.read_text())
    with written_whole(page) as temporary:
        temporary.write_text(text)
    for path in write_pictures(PICTURES):
        log.info("picture: %s", path)


if __name__ == "__main__":
    sys.exit(main())

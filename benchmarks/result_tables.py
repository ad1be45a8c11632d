"""The tables of a comparison in our documentation, written anew from the figures that f4s_compare measured.

A table stands between two comments of a Markdown page, the first of which says what it shows, of which figures, rows, and folds
or seeds (all, where none are named):

    <!-- table segmentation compare_502 rows=stacked,fuse4seg seeds=0,1 -->
    <!-- end -->

Kinds: ``segmentation`` (scores over the seeds), ``folds`` (Dice and HD95 fold by fold), ``fusion`` (the eight metrics),
``ablations`` (both, one line each).

Example:
    python benchmarks/result_tables.py documentation/explanation/results.md
    python benchmarks/result_tables.py --add comparison/comparison.json benchmarks/figures/compare_502.json
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from fuse4seg.cli.command import make_parser, run_command
from fuse4seg.comparison.report import Result, Table, as_markdown, format_markdown, known
from fuse4seg.errors import OptionError
from fuse4seg.files import write_json, written_whole

FIGURES = Path(__file__).parent / "figures"
TABLE = re.compile(r"(<!-- table (\w+) (\w+)((?: \w+=\S+)*) -->\n).*?(<!-- end -->)", re.DOTALL)
LABELS = {"stacked": "stock nnU-Net, stacked", "fuse4seg": "**Fuse4Seg**", "max": "stock nnU-Net on the maximum",
          "mean": "stock nnU-Net on the mean", "wavelet": "stock nnU-Net on the wavelet fusion",
          "cross_attention": "Fuse4Seg with cross-attention", "no_descreening": "Fuse4Seg without descreening"}
TRIVIAL = ("average", "maximum")
TO_A_SOURCE = "SSIM to "


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = make_parser("Write the tables of Markdown pages anew from measured figures.",
                         example="python benchmarks/result_tables.py documentation/explanation/results.md")
    parser.add_argument("pages", nargs="*", type=Path, help="Markdown pages with tables")
    parser.add_argument("--figures", type=Path, default=FIGURES, help="folder of the figures that the tables name")
    parser.add_argument("--add", nargs=2, type=Path, metavar=("COMPARISON", "FIGURES"),
                        help="first add what a comparison.json holds to a file of figures")
    parser.add_argument("--page", nargs=2, type=Path, metavar=("FIGURES", "PAGE"),
                        help="write the page that f4s_compare --report would write of these figures")
    return run_command(_run, parser, arguments)


def _run(options: argparse.Namespace) -> None:
    if options.add:
        comparison, figures = options.add
        added = json.loads(comparison.read_text())
        write_json(merge(json.loads(figures.read_text()), added) if figures.is_file() else added, figures)
    pages = {page: fill_tables(page.read_text(), options.figures) for page in options.pages}
    if options.page:
        pages[options.page[1]] = format_markdown(json.loads(options.page[0].read_text()))
    for page, text in pages.items():
        with written_whole(page) as temporary:
            temporary.write_text(text)


def merge(earlier: dict[str, Any], added: dict[str, Any]) -> dict[str, Any]:
    """One comparison of two under the same conditions; where both hold a training, the added one counts.

    Raises:
        OptionError: They differ in dataset, plans, budget, patch or batch.
    """
    shared = ("dataset", "configuration", "plans", "budget", "patch_size", "batch_size")
    if differing := [name for name in shared if earlier[name] != added[name]]:
        raise OptionError("--add", f"the comparisons differ in {', '.join(differing)}. Add it to a file of its own.")
    results = {(one["name"], one["fold"], one["seed"]): one for one in [*earlier["results"], *added["results"]]}
    trivial = {**_trivial(earlier), **_trivial(added)}
    return {**earlier, "folds": sorted(trivial), "seeds": sorted({seed for _, _, seed in results}),
            "calls": [*earlier["calls"], *(call for call in added["calls"] if call not in earlier["calls"])],
            "results": list(results.values()), "trivial": [trivial[fold] for fold in sorted(trivial)]}


def fill_tables(text: str, figures: Path = FIGURES) -> str:
    """A page with every table between its comments as its figures have it."""
    @cache
    def measured(name: str) -> dict[str, Any]:
        return json.loads((figures / f"{name}.json").read_text())

    def filled(match: re.Match[str]) -> str:
        start, kind, name, words, end = match.groups()
        wanted = {key: value.split(",") for key, value in (word.split("=") for word in words.split())}
        return start + as_markdown(KINDS[kind](measured(name), wanted)) + "\n" + end

    return TABLE.sub(filled, text)


def segmentation(comparison: dict[str, Any], wanted: dict[str, list[str]]) -> Table:
    """Means over the seeds, their standard deviation, and Dice and HD95 of each."""
    rows = []
    for name, trials in _chosen(comparison, wanted).items():
        dice, iou, distance = (_of(trials, metric) for metric in ("Dice", "IoU", "HD95"))
        rows.append([label(name), _spread(dice, 3), _each(dice, 3), number(statistics.fmean(iou), 3),
                     _spread(distance, 1) + (f" ({_each(distance, 1)})" if len(distance) > 1 else ""),
                     _spread(_of(trials, "HD95", "largest_component"), 1)])
    return ["", "Dice", "per seed", "mIoU", "HD95 (mm)", "of the largest component"], rows


def folds(comparison: dict[str, Any], wanted: dict[str, list[str]]) -> Table:
    """Dice and HD95 of each fold, averaged over its seeds, and their mean over the folds that a row has."""
    chosen = _chosen(comparison, wanted)
    places = sorted({trial["fold"] for trials in chosen.values() for trial in trials})
    rows = []
    for title, metric, group, decimals in (("Dice", "Dice", "segmentation", 3), ("HD95", "HD95", "segmentation", 1),
                                           ("HD95 of the largest component", "HD95", "largest_component", 1)):
        for name, trials in chosen.items():
            by_fold = [_of([trial for trial in trials if trial["fold"] == fold], metric, group) for fold in places]
            means = [statistics.fmean(values) if values else None for values in by_fold]
            rows.append([f"{label(name)}: {title}", *("-" if mean is None else number(mean, decimals) for mean in means),
                         number(statistics.fmean(known(means)), decimals)])
    return ["", *(f"fold {fold}" for fold in places), "mean"], rows


def fusion(comparison: dict[str, Any], wanted: dict[str, list[str]]) -> Table:
    """Eight metrics and the SSIM to each source of fused images, and of the trivial ones if they are named."""
    chosen, trivial = _chosen(comparison, wanted), _trivial(comparison)
    images = {name: [trivial[fold][name]["mean"] for fold in _folds(comparison, wanted)] if name in TRIVIAL
              else [trial["fusion"]["mean"] for trial in chosen[name]] for name in wanted["rows"]}
    metrics = list(next(iter(images.values()))[0])
    return ["", *metrics], [[label(name).removeprefix("stock nnU-Net on the "),
                             *(number(statistics.fmean(mean[metric] for mean in means), _decimals(metric))
                               for metric in metrics)] for name, means in images.items()]


def ablations(comparison: dict[str, Any], wanted: dict[str, list[str]]) -> Table:
    """A line for each row: Dice, HD95, nearness to the sources, and over how many trivial images' metrics it lies."""
    chosen = _chosen(comparison, wanted)
    to_sources = [metric for metric in next(iter(chosen.values()))[0]["fusion"]["mean"] if metric.startswith(TO_A_SOURCE)]
    rows = []
    for name, trials in chosen.items():
        fused = {metric: statistics.fmean(trial["fusion"]["mean"][metric] for trial in trials)
                 for metric in trials[0]["fusion"]["mean"]}
        rows.append([label(name), _spread(_of(trials, "Dice"), 3), _spread(_of(trials, "HD95"), 1),
                     _spread(_of(trials, "HD95", "largest_component"), 1),
                     " ".join(number(fused[metric], 3) for metric in to_sources),
                     number(fused["VIF"], 3), number(fused["SCD"], 2),
                     ", ".join(str(value) for value in metrics_over(comparison, trials))])
    sources = ", ".join(metric.removeprefix(TO_A_SOURCE) for metric in to_sources)
    return ["", "Dice", "HD95 (mm)", "of the largest component", TO_A_SOURCE + sources, "VIF", "SCD",
            "metrics over the average, maximum"], rows


def metrics_over(comparison: dict[str, Any], trials: Sequence[Result]) -> tuple[int, int]:
    """Of how many of the eight metrics the trainings' mean lies above the average's and the maximum's, on the same folds."""
    trivial = _trivial(comparison)
    average, maximum = (sum(statistics.fmean(trial["fusion"]["mean"][metric] - trivial[trial["fold"]][name]["mean"][metric]
                                             for trial in trials) > 0
                            for metric in trials[0]["fusion"]["mean"] if not metric.startswith(TO_A_SOURCE)) for name in TRIVIAL)
    return average, maximum


def label(name: str) -> str:
    """How a row is called in our pages."""
    if name.startswith("lambda"):
        return f"λ = {number(float(name.removeprefix('lambda')), None)}"
    return LABELS.get(name) or (f"stock nnU-Net, {name} alone" if name[0].isupper() else name.replace("_", " "))


def number(value: float, decimals: int | None) -> str:
    """Without the zero before the point; all its digits with None."""
    text = f"{value:g}" if decimals is None else f"{value:.{decimals}f}"
    return re.sub(r"^(-?)0\.", r"\1.", text)


KINDS: dict[str, Callable[[dict[str, Any], dict[str, list[str]]], Table]] = {
    "segmentation": segmentation, "folds": folds, "fusion": fusion, "ablations": ablations}


def _folds(comparison: dict[str, Any], wanted: dict[str, list[str]]) -> list[int]:
    return [int(fold) for fold in wanted.get("folds", comparison["folds"])]


def _chosen(comparison: dict[str, Any], wanted: dict[str, list[str]]) -> dict[str, list[Result]]:
    """Trainings of each row that is wanted, in the order of folds and seeds."""
    places, seeds = _folds(comparison, wanted), [int(seed) for seed in wanted.get("seeds", comparison["seeds"])]
    found = {name: sorted((one for one in comparison["results"]
                           if one["name"] == name and one["fold"] in places and one["seed"] in seeds),
                          key=lambda one: (one["fold"], one["seed"])) for name in wanted["rows"] if name not in TRIVIAL}
    if missing := [name for name, trials in found.items() if not trials]:
        raise OptionError("table", f"no training of {', '.join(missing)}. Name rows, folds and seeds that the figures hold.")
    return found


def _trivial(comparison: dict[str, Any]) -> dict[int, dict[str, Any]]:
    return dict(zip(comparison["folds"], comparison["trivial"], strict=True))


def _of(trials: Sequence[Result], metric: str, group: str = "segmentation") -> list[float]:
    """A metric's foreground mean of each training that has one."""
    return known(trial[group]["foreground_mean"][metric] for trial in trials)


def _spread(values: Sequence[float], decimals: int) -> str:
    if not values:
        return "-"
    mean = number(statistics.fmean(values), decimals)
    return f"{mean} ± {number(statistics.stdev(values), decimals)}" if len(values) > 1 else mean


def _each(values: Sequence[float], decimals: int) -> str:
    return " ".join(number(value, decimals) for value in values) if len(values) > 1 else ""


def _decimals(metric: str) -> int:
    return 2 if metric in ("SD", "SF") else 3


if __name__ == "__main__":
    sys.exit(main())

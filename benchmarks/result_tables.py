"""The tables of a comparison in our documentation, written anew from the figures that f4s_compare measured.

A table stands between two comments of a Markdown page, the first of which says what it shows, of which figures, rows, and folds
or seeds (all, where none are named):

    <!-- table segmentation compare_505 rows=stacked,fuse4seg seeds=0,1 -->
    <!-- end -->

Kinds: ``segmentation`` (scores over the seeds), ``folds`` (Dice and HD95 fold by fold), ``fusion`` (the eight metrics),
``paired`` (Dice beside another row's case by case, stacked nnU-Net's or that of ``less=ROW``, visibility, SSIM and chroma).

Example:
    python benchmarks/result_tables.py documentation/explanation/results.md
    python benchmarks/result_tables.py --add comparison/comparison.json benchmarks/figures/compare_505.json
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
from fuse4seg.comparison.report import Result, Table, as_markdown, difference, format_markdown, known
from fuse4seg.comparison.rows import PEER
from fuse4seg.comparison.scores import VISIBILITY
from fuse4seg.errors import OptionError
from fuse4seg.files import write_json, written_whole

FIGURES = Path(__file__).parent / "figures"
TABLE = re.compile(r"(<!-- table (\w+) (\w+)((?: \w+=\S+)*) -->\n).*?(<!-- end -->)", re.DOTALL)
LABELS = {"all_sources": "all sources together", "stacked": "stock nnU-Net, stacked", "fuse4seg": "**Fuse4Seg**",
          "max": "stock nnU-Net on the maximum", "mean": "stock nnU-Net on the mean",
          "wavelet": "stock nnU-Net on the wavelet fusion",
          "colour": "stock nnU-Net on the fixed colour formula", "grey": "**Fuse4Seg, grey**",
          "frozen": "the leader frozen as it starts", "fusion_losses_alone": "the leader taught by the fusion losses alone",
          "joint": "the leader taught by the direct gradient, too (`joint`)",
          "grey_frozen": "grey, the leader frozen as it starts",
          "grey_fusion_losses_alone": "grey, the fusion losses alone", "grey_joint": "grey, `joint`"}
TO_A_SOURCE = "SSIM to "
#: Of images in colour.
CHROMA = ("chroma of background", "chroma of foreground")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = make_parser("Write the tables of Markdown pages anew from measured figures.",
                         example="python benchmarks/result_tables.py documentation/explanation/results.md")
    parser.add_argument("pages", nargs="*", type=Path, help="Markdown pages with tables")
    parser.add_argument("--figures", type=Path, default=FIGURES, help="folder of the figures that the tables name")
    parser.add_argument("--add", nargs=2, type=Path, metavar=("COMPARISON", "FIGURES"),
                        help="first add what a comparison.json holds to a file of figures")
    parser.add_argument("--page", nargs=2, type=Path, metavar=("FIGURES", "PAGE"),
                        help="write the page that f4s_compare would write of these figures")
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
    images = {name: [trial["fusion"]["mean"] for trial in chosen[name]] if name in chosen
              else [trivial[fold][name]["mean"] for fold in _folds(comparison, wanted)] for name in wanted["rows"]}
    metrics = [metric for metric in next(iter(images.values()))[0] if "|" not in metric and not metric.startswith("chroma")]
    return ["", *metrics], [[label(name).removeprefix("stock nnU-Net on the "),
                             *(number(statistics.fmean(mean[metric] for mean in means), _decimals(metric))
                               for metric in metrics)] for name, means in images.items()]


def paired(comparison: dict[str, Any], wanted: dict[str, list[str]]) -> Table:
    """A line for each row: Dice, its difference to a peer case by case, visibility, nearness to the sources, and chroma.

    Of the trivial images there is no Dice. The difference is over all wanted folds and seeds that both rows have.
    """
    peer, = wanted.get("less", [PEER])
    results = _results(comparison, wanted)
    chosen, trivial = _chosen(comparison, wanted), _trivial(comparison)
    rows = []
    for name in wanted["rows"]:
        trials = chosen.get(name, [])
        images = ([trial["fusion"]["mean"] for trial in trials if "fusion" in trial] if trials
                  else [trivial[fold][name]["mean"] for fold in _folds(comparison, wanted)])
        near = [statistics.fmean(value for metric, value in mean.items() if metric.startswith(TO_A_SOURCE)) for mean in images
                if any(metric.startswith(TO_A_SOURCE) for metric in mean)]
        title = label(name) if trials or name in LABELS else f"{name}, as it is"
        rows.append([title, str(len(trials)) if trials else "", _spread(_of(trials, "Dice"), 3) if trials else "",
                     _less(results, name, peer) if trials and name != peer else "", _mean_of(images, VISIBILITY),
                     number(statistics.fmean(near), 3) if near else "",
                     ", ".join(filter(None, (_mean_of(images, chroma, 1) for chroma in CHROMA)))])
    subtracted = "stacked nnU-Net" if peer == PEER else label(peer).strip("*")
    return ["", "trainings", "Dice", f"less {subtracted}, case by case (95 %)", "visibility", "mean SSIM to the sources",
            "chroma of background, of what is labelled"], rows


def _less(results: Sequence[Result], name: str, peer: str) -> str:
    test = difference(results, name, peer)
    if test is None:
        return ""
    low, high = test.interval
    return f"{test.difference:+.3f} ({low:+.3f} to {high:+.3f}), {test.pairs} cases".replace("0.", ".")


def _mean_of(means: Sequence[dict[str, Any]], metric: str, decimals: int = 3) -> str:
    values = known(mean.get(metric) for mean in means)
    return number(statistics.fmean(values), decimals) if values else ""


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
    "segmentation": segmentation, "folds": folds, "fusion": fusion, "paired": paired}


def _folds(comparison: dict[str, Any], wanted: dict[str, list[str]]) -> list[int]:
    return [int(fold) for fold in wanted.get("folds", comparison["folds"])]


def _results(comparison: dict[str, Any], wanted: dict[str, list[str]]) -> list[Result]:
    """Trainings of the folds and seeds that are wanted, of whatever row."""
    places, seeds = _folds(comparison, wanted), [int(seed) for seed in wanted.get("seeds", comparison["seeds"])]
    return [one for one in comparison["results"] if one["fold"] in places and one["seed"] in seeds]


def _chosen(comparison: dict[str, Any], wanted: dict[str, list[str]]) -> dict[str, list[Result]]:
    """Trainings of each row that is wanted, in the order of folds and seeds."""
    results = _results(comparison, wanted)
    trivial = {name for fold in comparison["trivial"] for name in fold}
    found = {name: sorted((one for one in results if one["name"] == name),
                          key=lambda one: (one["fold"], one["seed"])) for name in wanted["rows"] if name not in trivial}
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

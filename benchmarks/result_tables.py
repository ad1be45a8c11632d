"""The tables of a comparison in our documentation, written anew from the figures that f4s_compare measured.

A table stands between two comments of a Markdown page, the first of which says what it shows, of which figures, rows, and folds
or seeds (all, where none are named):

    <!-- table scores compare_505 rows=stacked,fuse4seg seeds=0,1 -->
    <!-- end -->

Kinds: ``scores`` (Dice by class, mIoU, HD95 with and without post-processing, costs), ``fusion`` (the eight metrics), ``paired``
(Dice and visibility beside another row's case by case, stacked nnU-Net's or that of ``less=ROW``, SSIM and chroma). Intervals
hold for all differences of a table together.

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
from fuse4seg.comparison.report import Result, Table, as_markdown, case_means, format_markdown, known, paired_trials
from fuse4seg.comparison.rows import PEER
from fuse4seg.comparison.scores import VISIBILITY
from fuse4seg.errors import OptionError
from fuse4seg.evaluation.bootstrap import paired_test
from fuse4seg.files import written_whole

FIGURES = Path(__file__).parent / "figures"
TABLE = re.compile(r"(<!-- table (\w+) (\w+)((?: \w+=\S+)*) -->\n).*?(<!-- end -->)", re.DOTALL)
LABELS = {"all_sources": "all sources together", "stacked": "stock nnU-Net, stacked", "fuse4seg": "**Fuse4Seg**",
          "max": "stock nnU-Net on the maximum", "mean": "stock nnU-Net on the mean",
          "wavelet": "stock nnU-Net on the wavelet fusion",
          "colour": "stock nnU-Net on the fixed colour formula", "grey": "**Fuse4Seg, grey**",
          "frozen": "the leader frozen as it starts", "fusion_losses_alone": "the leader taught by the fusion losses alone",
          "joint": "the leader taught by the direct gradient, too (`joint`)",
          "grey_frozen": "grey, the leader frozen as it starts",
          "grey_fusion_losses_alone": "grey, the fusion losses alone", "grey_joint": "grey, `joint`",
          "fuse4seg_image": "stock nnU-Net on Fuse4Seg's image", "grey_image": "stock nnU-Net on the grey image",
          "frozen_image": "stock nnU-Net on the frozen leader's image", "dropout": "Fuse4Seg, a quarter dropped",
          "paper": "the paper's system (`paper`)", "paper_v3": "its later version (`paper_v3`)",
          "paper_no_cross_attention": "`paper` without cross-attention",
          "paper_no_adversarial_training": "`paper` without adversaries in stage 2",
          "paper_no_adversarial_pretraining": "`paper` without adversaries in stage 1",
          "paper_no_reconstruction": "`paper` without reconstruction",
          "cddfuse": "CDDFuse + nnU-Net", "ddcgan": "DDcGAN + nnU-Net", "didfuse": "DIDFuse + nnU-Net",
          "rfn_nest": "RFN-Nest + nnU-Net", "tardal": "TarDAL + nnU-Net", "u2fusion": "U2Fusion + nnU-Net",
          "attention_unet": "Attention U-Net, stacked", "cascade": "CASCADE, stacked", "emcad": "EMCAD, stacked",
          "swin_unet": "Swin-Unet, stacked", "unet_3plus": "UNet 3+, stacked"}
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
        save_figures(merge(json.loads(figures.read_text()), added) if figures.is_file() else added, figures)
    pages = {page: fill_tables(page.read_text(), options.figures) for page in options.pages}
    if options.page:
        pages[options.page[1]] = format_markdown(json.loads(options.page[0].read_text()))
    for page, text in pages.items():
        with written_whole(page) as temporary:
            temporary.write_text(text)


def save_figures(figures: dict[str, Any], path: Path) -> None:
    """One training a line and five digits a number, so that a further training is a further line."""
    def lines(name: str, entry: Any) -> str:
        if not isinstance(entry, list) or not entry or not isinstance(entry[0], dict):
            return f"{json.dumps(name)}: {json.dumps(shortened(entry))}"
        return f"{json.dumps(name)}: [\n" + ",\n".join(json.dumps(shortened(one)) for one in entry) + "\n]"

    with written_whole(path) as temporary:
        temporary.write_text("{\n" + ",\n".join(lines(*entry) for entry in figures.items()) + "\n}\n")


def shortened(content: Any) -> Any:
    """Plain content with numbers of five significant digits."""
    if isinstance(content, dict):
        return {name: shortened(entry) for name, entry in content.items()}
    if isinstance(content, list):
        return [shortened(entry) for entry in content]
    return float(f"{content:.5g}") if isinstance(content, float) else content


def merge(earlier: dict[str, Any], added: dict[str, Any]) -> dict[str, Any]:
    """One comparison of two under the same conditions; where both hold a training, the added one counts.

    Raises:
        OptionError: They differ in dataset, plans, budget, patch or batch.
    """
    shared = ("dataset", "configuration", "plans", "budget", "patch_size", "batch_size")
    if differing := [name for name in shared if earlier[name] != added[name]]:
        raise OptionError("--add", f"the comparisons differ in {', '.join(differing)}. Add it to a file of its own.")
    results = {(one["name"], one["fold"], one["seed"]): one for one in [*earlier["results"], *added["results"]]}
    mended = {(one["name"], one["seed"]): one for one in [*earlier.get("postprocessing", []), *added.get("postprocessing", [])]}
    trivial = {**_trivial(earlier), **_trivial(added)}
    return {**earlier, "folds": sorted(trivial), "seeds": sorted({seed for _, _, seed in results}),
            "calls": [*earlier["calls"], *(call for call in added["calls"] if call not in earlier["calls"])],
            "results": list(results.values()), "trivial": [trivial[fold] for fold in sorted(trivial)],
            "postprocessing": list(mended.values())}


def fill_tables(text: str, figures: Path = FIGURES) -> str:
    """A page with every table between its comments as its figures have it."""
    @cache
    def measured(name: str) -> dict[str, Any]:
        return json.loads((figures / f"{name}.json").read_text())

    def filled(match: re.Match[str]) -> str:
        start, kind, name, words, end = match.groups()
        wanted = {key: value.split(",") for key, value in (word.split("=") for word in words.split())}
        return start + as_markdown(without_empty_columns(*KINDS[kind](measured(name), wanted))) + "\n" + end

    return TABLE.sub(filled, text)


def without_empty_columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table without the columns in which nothing stands."""
    kept = [place for place in range(len(header)) if any(row[place] for row in rows)]
    return [header[place] for place in kept], [[row[place] for place in kept] for row in rows]


def scores(comparison: dict[str, Any], wanted: dict[str, list[str]]) -> Table:
    """A line for each row: Dice of each class, mIoU, HD95 as it is and after the rules learnt on other folds, and what it costs.

    HD95 with post-processing is that of the seeds of which all folds were at hand; its difference to stacked nnU-Net's, treated
    alike, is over the cases and seeds that both have.
    """
    chosen = _chosen(comparison, wanted)
    classes = list(next(iter(chosen.values()))[0]["segmentation"]["mean"])
    mended = {name: _mended(comparison, name, wanted) for name in {*chosen, PEER}}
    rows = []
    for name, trials in chosen.items():
        means = [trial["segmentation"]["mean"] for trial in trials]
        dice = [number(statistics.fmean(known(mean[each]["Dice"] for mean in means)), 3) for each in classes]
        speed = [number(statistics.median(trial[cost] for trial in trials), 2)
                 for cost in ("seconds_per_iteration", "seconds_per_case")]
        rows.append([label(name), str(len(trials)), *dice, _spread(_of(trials, "Dice"), 3),
                     number(statistics.fmean(_of(trials, "IoU")), 3), _spread(_of(trials, "HD95"), 2),
                     number(statistics.fmean(mended[name].values()), 2) if mended[name] else "",
                     "" if name == PEER else _difference(mended[name], mended[PEER], comparisons=len(chosen) - (PEER in chosen)),
                     *speed, number(trials[0]["parameters"] / 1e6, 2)])
    less = f"less stacked nnU-Net's ({_level(len(chosen) - (PEER in chosen))})"
    return ["", "trainings", *classes, "Dice", "mIoU", "HD95 (mm)", "post-processed", less, "s/iteration", "s/case",
            "million parameters"], rows


def fusion(comparison: dict[str, Any], wanted: dict[str, list[str]]) -> Table:
    """Eight metrics and the SSIM to each source of fused images, and of the trivial ones if they are named."""
    chosen, trivial = _chosen(comparison, wanted), _trivial(comparison)
    images = {name: [trial["fusion"]["mean"] for trial in chosen[name]] if name in chosen
              else [trivial[fold][name]["mean"] for fold in _folds(comparison, wanted)] for name in wanted["rows"]}
    metrics = [metric for metric in next(iter(images.values()))[0] if "|" not in metric and not metric.startswith("chroma")]
    return ["", *metrics], [[label(name).removeprefix("stock nnU-Net on the ").removesuffix(" + nnU-Net"),
                             *(number(statistics.fmean(mean[metric] for mean in means), _decimals(metric))
                               for metric in metrics)] for name, means in images.items()]


def paired(comparison: dict[str, Any], wanted: dict[str, list[str]]) -> Table:
    """A line for each row: Dice, its difference to a peer case by case, visibility likewise, nearness to the sources, and chroma.

    Of the trivial images there is no Dice. The differences are over all wanted folds and seeds that both rows have.
    """
    peer, = wanted.get("less", [PEER])
    results = _results(comparison, wanted)
    chosen, trivial = _chosen(comparison, wanted), _trivial(comparison)
    together = len([name for name in chosen if name != peer])
    seen = any("fusion" in trial for trial in results if trial["name"] == peer)
    rows = []
    for name in wanted["rows"]:
        trials = chosen.get(name, [])
        images = ([trial["fusion"]["mean"] for trial in trials if "fusion" in trial] if trials
                  else [trivial[fold][name]["mean"] for fold in _folds(comparison, wanted)])
        near = [statistics.fmean(value for metric, value in mean.items() if metric.startswith(TO_A_SOURCE)) for mean in images
                if any(metric.startswith(TO_A_SOURCE) for metric in mean)]
        title = label(name) if trials or name in LABELS else f"{name}, as it is"
        differs = trials and name != peer
        rows.append([title, str(len(trials)) if trials else "", _spread(_of(trials, "Dice"), 3) if trials else "",
                     _less(results, name, peer, case_means, together) if differs else "", _mean_of(images, VISIBILITY),
                     *([_less(results, name, peer, case_visibility, together) if differs and images else ""] if seen else []),
                     number(statistics.fmean(near), 3) if near else "",
                     ", ".join(filter(None, (_mean_of(images, chroma, 1) for chroma in CHROMA)))])
    subtracted = "stacked nnU-Net" if peer == PEER else label(peer).strip("*")
    return ["", "trainings", "Dice", f"less {subtracted}, case by case ({_level(together)})", "visibility",
            *([f"less {subtracted}"] if seen else []), "mean SSIM to the sources",
            "chroma of background, of what is labelled"], rows


def _level(comparisons: int) -> str:
    return "95 %" if comparisons < 2 else f"95 % for all {comparisons}"


def _less(results: Sequence[Result], name: str, peer: str, values: Callable[[Sequence[Result]], dict[str, float]],
          comparisons: int) -> str:
    """Over the folds and seeds that both rows have."""
    one, other = paired_trials(results, name, peer)
    return _difference(values(one), values(other), comparisons=comparisons)


def _difference(first: dict[Any, float], second: dict[Any, float], *, comparisons: int) -> str:
    cases = sorted(first.keys() & second.keys())
    if not cases:
        return ""
    test = paired_test([first[case] for case in cases], [second[case] for case in cases], comparisons=comparisons)
    low, high = test.interval
    return f"{test.difference:+.3f} ({low:+.3f} to {high:+.3f}), {test.pairs} cases".replace("0.", ".")


def case_visibility(trials: Sequence[Result]) -> dict[str, float]:
    """Mean over the boundaries of each case, and over its trainings."""
    values: dict[str, list[float]] = {}
    for trial in trials:
        for case, metrics in trial.get("fusion", {"cases": {}})["cases"].items():
            if boundaries := known(value for metric, value in metrics.items() if metric.startswith(f"{VISIBILITY} ")):
                values.setdefault(case, []).append(statistics.fmean(boundaries))
    return {case: statistics.fmean(means) for case, means in values.items()}


def _mended(comparison: dict[str, Any], name: str, wanted: dict[str, list[str]]) -> dict[tuple[int, str], float]:
    """HD95 of each case after post-processing, by seed and case."""
    seeds = [int(seed) for seed in wanted.get("seeds", comparison["seeds"])]
    return {(one["seed"], case): distance for one in comparison.get("postprocessing", []) if one["name"] == name
            and one["seed"] in seeds for case, (_, distance) in one["cases"].items() if distance is not None}


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
    "scores": scores, "fusion": fusion, "paired": paired}


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


def _of(trials: Sequence[Result], metric: str) -> list[float]:
    """A metric's foreground mean of each training that has one."""
    return known(trial["segmentation"]["foreground_mean"][metric] for trial in trials)


def _spread(values: Sequence[float], decimals: int) -> str:
    if not values:
        return "-"
    mean = number(statistics.fmean(values), decimals)
    return f"{mean} ± {number(statistics.stdev(values), decimals)}" if len(values) > 1 else mean


def _decimals(metric: str) -> int:
    return 2 if metric in ("SD", "SF") else 3


if __name__ == "__main__":
    sys.exit(main())

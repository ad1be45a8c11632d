"""The tables of a comparison, from what its trainings scored: as text for a terminal, as Markdown for a page."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from fuse4seg.comparison.picture import PICTURE
from fuse4seg.comparison.rows import METHOD, PEER
from fuse4seg.evaluation.bootstrap import PairedTest, paired_test
from fuse4seg.evaluation.fusion_metrics import METRICS
from fuse4seg.evaluation.table import format_table

#: Metrics in the table of segmentations.
SEGMENTATION = ("Dice", "IoU", "HD95")
Result = dict[str, Any]
Table = tuple[list[str], list[list[str]]]


def segmentation_table(results: Sequence[Result]) -> Table:
    """A row per row of the comparison: means over the trainings, their standard deviation, and the difference to stacked nnU-Net.

    The difference is that of the cases' mean foreground Dice, averaged over the seeds, with its 95 % bootstrap interval and the p
    of a signed-rank test over the cases. HD95 is given for the predictions as they are and for their largest component.
    """
    header = ["row", "runs", "Dice", "mIoU", "HD95 (mm)", "of the largest component", f"Dice less {PEER}", "p",
              "s/iteration", "s/case", "parameters"]
    rows = []
    for name, trials in by_row(segmented(results)).items():
        means = [trial["segmentation"]["foreground_mean"] for trial in trials]
        scores = [_spread(known(mean[metric] for mean in means)) for metric in SEGMENTATION]
        scores.append(_spread(known(trial["largest_component"]["foreground_mean"]["HD95"] for trial in trials)))
        test = difference(results, name, PEER) if name != PEER else None
        rows.append([name, str(len(trials)), *scores, *_shown(test),
                     *(f"{statistics.median(trial[cost] for trial in trials):.2f}"
                       for cost in ("seconds_per_iteration", "seconds_per_case")),
                     f"{trials[0]['parameters'] / 1e6:.2f} M"])
    return header, rows


def fusion_table(results: Sequence[Result], trivial: Sequence[dict[str, Any]]) -> Table:
    """A row per row that has fused images, and the trivial ones: each metric's mean over the trainings.

    Args:
        results: Of the trainings.
        trivial: Of each fold, scores by the names of the trivial rows.
    """
    fused = {name: [trial["fusion"]["mean"] for trial in trials if "fusion" in trial]
             for name, trials in by_row(results).items()}
    for fold in trivial:
        for name, found in fold.items():
            fused.setdefault(name, []).append(found["mean"])
    fused = {name: means for name, means in fused.items() if means}
    # Of single boundaries there are too many for a table.
    found = dict.fromkeys(metric for means in fused.values() for mean in means for metric in mean if "|" not in metric)
    metrics = list(found) or [*METRICS]
    rows = [[name, *(_number(_mean(known(mean.get(metric) for mean in means)), 3) for metric in metrics)]
            for name, means in fused.items()]
    return ["row", *metrics], rows


def convergence(results: Sequence[Result]) -> dict[str, float]:
    """For each row of ours, the iterations to the pseudo Dice that stacked nnU-Net ends with, over nnU-Net's; infinite if never.

    Both are the mean, over the folds and seeds that both rows have, of the validation batches' Dice, smoothed over three epochs;
    stage 1 counts.
    """
    found = {}
    for name in by_row(results):
        one, peer = paired_trials(results, name, PEER)
        if one and one[0]["ours"]:
            curve, aimed = (_smoothed([trial["pseudo_dice"] for trial in paired]) for paired in (one, peer))
            reached = next((epoch for epoch, value in enumerate(curve, 1) if value >= aimed[-1]), math.inf)
            per_epoch = one[0]["iterations"] / peer[0]["iterations"]
            found[name] = (reached + one[0]["pretrain_epochs"]) * per_epoch / len(aimed)
    return found


def difference(results: Sequence[Result], one: str, other: str, *, comparisons: int = 1) -> PairedTest | None:
    """Mean foreground Dice of two rows case by case, of the folds and seeds that both have; None where they share no case.

    Args:
        results: Of the trainings.
        one: Name of a row.
        other: Of the row that is subtracted.
        comparisons: Whose intervals are to hold all together.
    """
    first, second = map(case_means, paired_trials(results, one, other))
    cases = sorted(first.keys() & second.keys())
    if not cases:
        return None
    return paired_test([first[case] for case in cases], [second[case] for case in cases], comparisons=comparisons)


def format_text(tables: Iterable[Table]) -> str:
    """For a terminal."""
    return "\n\n".join(format_table(header, rows) for header, rows in tables if rows)


class Section(NamedTuple):
    """A part of the page.

    Attributes:
        title: Its heading.
        table: Header and rows, or None.
        note: What its numbers are.
        picture: Name of the case that is shown, or None.
        lines: A list of sentences.
    """

    title: str
    table: Table | None = None
    note: str = ""
    picture: str | None = None
    lines: Sequence[str] = ()


def sections(comparison: dict[str, Any]) -> list[Section]:
    """What a comparison has to say, in order."""
    results, labelled = comparison["results"], bool(segmented(comparison["results"]))
    found = []
    if labelled:
        found.append(Section("Segmentation", segmentation_table(results),
                             "Means over the trainings, ± their standard deviation. Difference to stacked nnU-Net over cases: "
                             "mean, 95 % bootstrap interval, and p of a signed-rank test. Largest component: HD95 with all "
                             "foreground but its largest connected component left out, as nnU-Net's post-processing does."))
    table = fusion_table(results, comparison["trivial"])
    if table[1]:
        found.append(Section("Fused images", table,
                             f"Slices of the validation cases that hold {'foreground' if labelled else 'tissue'}; luma, 0..255, "
                             "not stretched, MI in nats; sources as the fusion network sees them. Of more than two sources, the "
                             f"mean over pairs.{' Visibility is of the whole image.' if labelled else ''}"))
    if picture := comparison.get("picture"):
        found.append(Section("One case", note=f"Slice {picture['slice']} as preprocessed, a validation case of fold "
                                              f"{picture['fold']}; all in one window, as the fusion network sees its sources.",
                             picture=picture["case"]))
    if lines := reading(comparison):
        found.append(Section("Reading", lines=lines))
    return found


def conditions_of(comparison: dict[str, Any]) -> str:
    """What was compared, under which conditions, by what."""
    patch = " x ".join(map(str, comparison["patch_size"]))
    made_by = "; ".join(sorted({f"{call['machine']}, {call['versions']}" for call in comparison["calls"]}))
    return (f"Dataset {comparison['dataset']}, configuration {comparison['configuration']}, plans {comparison['plans']} "
            f"(patch {patch}, batch {comparison['batch_size']}), folds {_listed(comparison['folds'])}, seeds "
            f"{_listed(comparison['seeds'])}; {_amount(comparison['budget'], comparison['results'])}. {made_by}.")


def format_markdown(comparison: dict[str, Any]) -> str:
    """A page of its own: conditions, command, tables, and what is told apart."""
    parts = [f"# Comparison: {comparison['dataset']}, {comparison['configuration']}", conditions_of(comparison),
             "\n".join(f"    {call['command']}" for call in comparison["calls"])]
    for section in sections(comparison):
        parts += [f"## {section.title}",
                  *([as_markdown(section.table)] if section.table else []),
                  *([f"![{section.picture}]({PICTURE})"] if section.picture else []),
                  *([section.note] if section.note else []),
                  *(["\n".join(f"- {line}" for line in section.lines)] if section.lines else [])]
    return "\n\n".join(parts) + "\n"


def _amount(budget: dict[str, Any], results: Sequence[Result]) -> str:
    """What every training got."""
    epochs, stage_1 = budget["epochs"], budget["pretrain_epochs"]
    if budget["iterations"] is not None:
        return f"{epochs} x {budget['iterations']} iterations, ours after {stage_1} x {budget['iterations']} of pre-training"
    each = ", ".join(f"{name} {trials[0]['iterations']}" for name, trials in by_row(results).items()
                     if "iterations" in trials[0])
    return f"{budget['minutes']:g} minutes in {epochs} epochs, ours with {stage_1} of pre-training; iterations per epoch: {each}"


def reading(comparison: dict[str, Any]) -> list[str]:
    """What holds and what does not, in plain words."""
    results = segmented(comparison["results"])
    lines = []
    rows = by_row(results)
    places = {name: {(trial["fold"], trial["seed"]) for trial in trials} for name, trials in rows.items()}
    if elsewhere := [name for name in places if places[name] != places.get(PEER, places[name])]:
        lines.append(f"Not trained in the same folds with the same seeds as {PEER}: {', '.join(elsewhere)}. Compare their "
                     "differences, not their means.")
    others = [name for name in rows if name not in (METHOD, PEER)]
    for other in [PEER, *others]:
        if (test := difference(results, METHOD, other)) is not None:
            low, high = test.interval
            verdict = "higher" if low > 0 else "lower" if high < 0 else "not told apart"
            lines.append(f"Dice of {METHOD} less {other}, cases: {test.pairs}: {_shown(test)[0]}: {verdict}.")
    for name, ratio in convergence(results).items():
        reached = "never" if math.isinf(ratio) else f"after {ratio:.2f} of its iterations, stage 1 counted"
        lines.append(f"{name} reaches the pseudo Dice of {PEER} {reached}.")
    return lines


def by_row(results: Sequence[Result]) -> dict[str, list[Result]]:
    """The trainings of each row, in the rows' order."""
    rows: dict[str, list[Result]] = {}
    for result in results:
        rows.setdefault(result["name"], []).append(result)
    return rows


def segmented(results: Sequence[Result]) -> list[Result]:
    """Without rows that fuse alone."""
    return [result for result in results if "segmentation" in result]


def paired_trials(results: Sequence[Result], one: str, other: str) -> tuple[list[Result], list[Result]]:
    """Those trainings of two rows whose fold and seed the other has, too."""
    rows = by_row(results)
    trainings = rows.get(one, []), rows.get(other, [])
    shared = set.intersection(*({(trial["fold"], trial["seed"]) for trial in trials} for trials in trainings))
    first, second = ([trial for trial in trials if (trial["fold"], trial["seed"]) in shared] for trials in trainings)
    return first, second


def case_means(trials: Sequence[Result]) -> dict[str, float]:
    """Mean foreground Dice of each case over its trainings; classes that a case lacks are left out."""
    values: dict[str, list[float]] = {}
    for trial in trials:
        for case, classes in trial["segmentation"]["cases"].items():
            values.setdefault(case, []).append(_mean(known(scores["Dice"] for scores in classes.values())))
    return {case: _mean(means) for case, means in values.items()}


def _smoothed(curves: Sequence[Sequence[float]]) -> list[float]:
    mean = [statistics.fmean(values) for values in zip(*curves, strict=False)]
    return [statistics.fmean(mean[max(0, epoch - 2):epoch + 1]) for epoch in range(len(mean))]


def known(values: Iterable[float | None]) -> list[float]:
    """Without what could not be measured: None and NaN."""
    return [value for value in values if value is not None and not math.isnan(value)]


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else math.nan


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    return _number(_mean(values), 3) + (f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else "")


def _number(value: float, decimals: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{decimals}f}"


def _shown(test: PairedTest | None) -> list[str]:
    if test is None:
        return ["-", "-"]
    low, high = test.interval
    interval = "" if math.isnan(low) else f" ({low:+.3f} to {high:+.3f})"
    return [f"{test.difference:+.3f}{interval}", _number(test.p, 3)]


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))


def as_markdown(table: Table) -> str:
    """A table of a Markdown page."""
    header, rows = table
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, ["---"] * len(header), *rows])

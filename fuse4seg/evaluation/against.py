"""Two result folders against the same references."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from fuse4seg.evaluation.bootstrap import FEWEST_PAIRS, PairedTest, paired_test, shown_interval
from fuse4seg.evaluation.folders import METRICS, Evaluation
from fuse4seg.evaluation.table import format_table


def compare_evaluations(first: Evaluation, second: Evaluation, *, metric: str = "Dice", seed: int = 0) -> dict[str, PairedTest]:
    """Paired test of every class over the cases that both have scored.

    Args:
        first: One method.
        second: The other, on the same references.
        metric: One of METRICS.
        seed: Of the intervals.

    Example:
        >>> from fuse4seg.evaluation.folders import Scores
        >>> from fuse4seg.evaluation.overlap import Confusion
        >>> first, second = (Evaluation({"core": 1}, {"a": {"core": Scores(Confusion(tp=hits, fp=1, fn=1, tn=7), hd95=2.0)}}, {})
        ...                  for hits in (3, 1))
        >>> compare_evaluations(first, second)["core"].difference
        0.25
    """
    cases = [case for case in first.cases if case in second.cases]

    def values(evaluation: Evaluation, name: str) -> list[float]:
        return [evaluation.cases[case][name].values[metric] for case in cases]

    return {name: paired_test(values(first, name), values(second, name), seed=seed) for name in first.names}


def comparison_to_plain(first: Evaluation, second: Evaluation, *, seed: int = 0) -> dict[str, Any]:
    """Of all metrics, for a JSON file; NaN becomes None.

    Example:
        >>> list(comparison_to_plain(Evaluation({"core": 1}, {}, {}), Evaluation({"core": 1}, {}, {})))
        ['Dice', 'IoU', 'HD95', 'sensitivity', 'precision']
    """

    def plain(value: Any) -> Any:
        if isinstance(value, tuple):
            return [plain(part) for part in value]
        return None if math.isnan(value) else value

    tests = {metric: compare_evaluations(first, second, metric=metric, seed=seed) for metric in METRICS}
    return {metric: {name: {key: plain(value) for key, value in asdict(test).items()} for name, test in of_metric.items()}
            for metric, of_metric in tests.items()}


def format_comparison(tests: dict[str, PairedTest]) -> str:
    """Table of Dice with a row per class, and a line where there are too few cases to tell.

    Example:
        >>> print(format_comparison({"core": paired_test([0.75, 0.80, 0.85], [0.70, 0.70, 0.70])}))
        Dice, difference    mean     95 % interval  p, signed rank  pairs  left out
        ---------------------------------------------------------------------------
        core              0.1000  0.0500 to 0.1500          0.2500      3         0
        fewer than 6 pairs cannot reach p < .05, whatever the difference
    """
    rows: list[list[str | float]] = [[name, test.difference, shown_interval(test.interval), test.p, test.pairs,
                                      test.left_out] for name, test in tests.items()]
    table = format_table(["Dice, difference", "mean", "95 % interval", "p, signed rank", "pairs", "left out"], rows)
    if min(test.pairs for test in tests.values()) >= FEWEST_PAIRS:
        return table
    return f"{table}\nfewer than {FEWEST_PAIRS} pairs cannot reach p < .05, whatever the difference"

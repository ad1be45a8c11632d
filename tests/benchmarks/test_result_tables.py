"""Tables of our documentation: they say what the figures say, and the figures are counted right."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from fuse4seg.comparison.report import format_markdown
from fuse4seg.errors import OptionError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tables(load_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return load_benchmark("result_tables")


def training(name: str, dice: float, *, fold: int = 0, seed: int = 0, hd95: float | None = 4.0,
             fused: dict[str, float] | None = None) -> dict[str, Any]:
    found = {"name": name, "fold": fold, "seed": seed,
             "segmentation": {"foreground_mean": {"Dice": dice, "IoU": dice / 2, "HD95": hd95}, "mean": {"core": {"Dice": dice}}},
             "parameters": 2_000_000, "seconds_per_iteration": 0.5, "seconds_per_case": 0.1}
    return found if fused is None else {**found, "fusion": {"mean": fused, "cases": {}}}


def comparison(*results: dict[str, Any], **changes: Any) -> dict[str, Any]:
    folds = sorted({result["fold"] for result in results})
    trivial = {"average": {"mean": {"EN": 4.0, "VIF": 0.5, "SCD": 1.0, "SSIM to T1": 0.9, "SSIM to CT": 0.9}},
               "maximum": {"mean": {"EN": 6.0, "VIF": 0.9, "SCD": 1.0, "SSIM to T1": 0.1, "SSIM to CT": 0.1}}}
    return {"dataset": "D", "configuration": "2d", "plans": "P", "budget": {}, "patch_size": [8, 8], "batch_size": 2,
            "folds": folds, "seeds": sorted({result["seed"] for result in results}), "calls": [{"command": "f4s_compare"}],
            "results": list(results), "trivial": [trivial] * len(folds), **changes}


FUSED = {"EN": 5.0, "VIF": 0.8, "SCD": 0.9, "SSIM to T1": 0.7, "SSIM to CT": 0.6}


def test_documentation_says_what_was_measured(tables: ModuleType) -> None:
    text = (ROOT / "documentation" / "explanation" / "results.md").read_text()
    assert text.count("<!-- table ") == text.count("<!-- end -->") == len(tables.TABLE.findall(text)) > 0
    assert tables.fill_tables(text) == text


class TestScores:
    def test_give_classes_means_and_costs(self, tables: ModuleType) -> None:
        header, rows = tables.scores(comparison(training("stacked", 0.7, seed=1, hd95=None), training("stacked", 0.5),
                                                training("stacked", 0.1, fold=1), training("T1ce", 0.25)),
                                     {"rows": ["T1ce", "stacked"], "folds": ["0"]})
        assert header[2] == "core"
        assert rows == [["stock nnU-Net, T1ce alone", "1", ".250", ".250", ".125", "4.00", "", "", ".50", ".10", "2.00"],
                        ["stock nnU-Net, stacked", "2", ".600", ".600 ± .141", ".300", "4.00", "", "", ".50", ".10", "2.00"]]

    def test_give_hd95_after_post_processing_beside_stacked_case_by_case(self, tables: ModuleType) -> None:
        """Nine cases, each a millimetre nearer; one has no distance."""
        distances = {"stacked": [3.0 + number for number in range(10)],
                     "fuse4seg": [None, *(2.0 + number for number in range(1, 10))]}
        mended = [{"name": name, "seed": 0, "rules": [], "cases": {f"case{number}": [0.5, distance]
                                                                   for number, distance in enumerate(found)}}
                  for name, found in distances.items()]
        found = comparison(training("stacked", 0.5), training("fuse4seg", 0.5), postprocessing=mended)
        header, rows = tables.scores(found, {"rows": ["stacked", "fuse4seg"]})
        assert header[6:8] == ["post-processed", "less stacked nnU-Net's (95 %)"]
        assert [row[6:8] for row in rows] == [["7.50", ""], ["7.00", "-1.000 (-1.000 to -1.000), 9 cases"]]


def test_fusion_holds_the_trivial_images_in_the_order_asked_for(tables: ModuleType) -> None:
    header, rows = tables.fusion(comparison(training("fuse4seg", 0.5, fused=FUSED), training("mean", 0.5, fused=FUSED)),
                                 {"rows": ["fuse4seg", "average", "mean"]})
    assert [header, *rows] == [["", "EN", "VIF", "SCD", "SSIM to T1", "SSIM to CT"],
                               ["**Fuse4Seg**", "5.000", ".800", ".900", ".700", ".600"],
                               ["average", "4.000", ".500", "1.000", ".900", ".900"],
                               ["mean", "5.000", ".800", ".900", ".700", ".600"]]


class TestPaired:
    def test_gives_dice_beside_stacked_case_by_case(self, tables: ModuleType) -> None:
        """Ten cases that are each .1 better: so is the mean, and the interval has no width."""
        dice = {f"case{number}": {"core": {"Dice": number / 20}} for number in range(10)}
        better = {case: {"core": {"Dice": classes["core"]["Dice"] + 0.1}} for case, classes in dice.items()}
        fused = {**FUSED, "visibility": 0.97, "chroma of background": 12.34, "chroma of foreground": 20.0}
        rows = [training("stacked", 0.225), training("fuse4seg", 0.325, fused=fused)]
        for row, cases in zip(rows, (dice, better), strict=True):
            row["segmentation"]["cases"] = cases
        header, found = tables.paired(comparison(*rows), {"rows": ["stacked", "fuse4seg"]})
        assert header[3] == "less stacked nnU-Net, case by case (95 %)"
        assert found == [["stock nnU-Net, stacked", "1", ".225", "", "", "", ""],
                         ["**Fuse4Seg**", "1", ".325", "+.100 (+.100 to +.100), 10 cases", ".970", ".650", "12.3, 20.0"]]

    def test_stands_beside_the_row_that_is_named_in_the_folds_that_are(self, tables: ModuleType) -> None:
        rows = [training(name, dice, fold=fold, fused=FUSED) for name, dice in (("frozen", 0.4), ("fuse4seg", 0.5))
                for fold in (0, 1)]
        for row in rows:
            # Ten of one fold, in which there is a difference, and a thousand of another, in which there is none.
            dice = row["segmentation"]["foreground_mean"]["Dice"] if row["fold"] == 0 else 0.5
            row["segmentation"]["cases"] = {f"{row['fold']}_{number}": {"core": {"Dice": dice}}
                                            for number in range(10 if row["fold"] == 0 else 1000)}
        header, found = tables.paired(comparison(*rows), {"rows": ["fuse4seg", "frozen"], "less": ["fuse4seg"], "folds": ["0"]})
        assert header[3] == "less Fuse4Seg, case by case (95 %)"
        assert [row[3] for row in found] == ["", "-.100 (-.100 to -.100), 10 cases"]

    def test_compares_visibility_where_both_fuse_and_widens_the_intervals_of_several_rows(self, tables: ModuleType) -> None:
        random = np.random.default_rng(0)
        rows = [training(name, 0.5, fused=FUSED) for name in ("fuse4seg", "frozen", "joint")]
        for place, row in enumerate(rows):
            row["segmentation"]["cases"] = {f"case{number}": {"core": {"Dice": random.random()}} for number in range(10)}
            row["fusion"]["cases"] = {f"case{number}": {"visibility a|b": 0.9 - 0.1 * place, "visibility a|c": 0.7 - 0.1 * place}
                                      for number in range(10)}
        header, found = tables.paired(comparison(*rows), {"rows": ["fuse4seg", "frozen", "joint"], "less": ["fuse4seg"]})
        assert header[3:6] == ["less Fuse4Seg, case by case (95 % for all 2)", "visibility", "less Fuse4Seg"]
        assert [row[5] for row in found] == ["", "-.100 (-.100 to -.100), 10 cases", "-.200 (-.200 to -.200), 10 cases"]
        _, alone = tables.paired(comparison(*rows[:2]), {"rows": ["fuse4seg", "frozen"], "less": ["fuse4seg"]})
        intervals = [re.findall(r"[+-][.0-9]+", row[3])[1:] for row in (found[1], alone[1])]
        widths = [float(high) - float(low) for low, high in intervals]
        assert widths[0] > widths[1]

    def test_trivial_images_have_no_dice(self, tables: ModuleType) -> None:
        trivial = {"all_sources": {"mean": {"visibility": 0.99}}, "average": {"mean": {"visibility": 0.8, "SSIM to T1": 0.5}}}
        found = tables.paired(comparison(training("fuse4seg", 0.5), trivial=[trivial]), {"rows": ["all_sources", "average"]})
        assert found[1] == [["all sources together", "", "", "", ".990", "", ""],
                            ["average, as it is", "", "", "", ".800", ".500", ""]]


def test_columns_in_which_nothing_stands_are_left_out(tables: ModuleType) -> None:
    assert tables.without_empty_columns(["", "Dice", "chroma", "p"], [["a", ".5", "", ""], ["b", "", "", ".1"]]) == (
        ["", "Dice", "p"], [["a", ".5", ""], ["b", "", ".1"]])


def test_a_row_that_was_not_trained_is_named(tables: ModuleType) -> None:
    with pytest.raises(OptionError, match="no training of max"):
        tables.scores(comparison(training("stacked", 0.5)), {"rows": ["stacked", "max"]})


class TestMerge:
    def test_adds_trainings_folds_and_calls(self, tables: ModuleType) -> None:
        added = comparison(training("stacked", 0.8), training("stacked", 0.6, fold=3, seed=2), calls=[{"command": "again"}])
        found = tables.merge(comparison(training("stacked", 0.5), training("max", 0.4)), added)
        assert [(one["name"], one["fold"], one["segmentation"]["foreground_mean"]["Dice"]) for one in found["results"]] == [
            ("stacked", 0, 0.8), ("max", 0, 0.4), ("stacked", 3, 0.6)]
        assert (found["folds"], found["seeds"], len(found["trivial"])) == ([0, 3], [0, 2], 2)
        assert [call["command"] for call in found["calls"]] == ["f4s_compare", "again"]

    def test_keeps_the_newer_post_processing_of_a_row_and_seed(self, tables: ModuleType) -> None:
        earlier, added = (comparison(training("max", 0.5), postprocessing=[{"name": name, "seed": 0, "rules": rules, "cases": {}}
                                                                           for name, rules in found.items()])
                          for found in ({"max": ["old"], "mean": ["old"]}, {"max": ["new"]}))
        assert [(one["name"], one["rules"]) for one in tables.merge(earlier, added)["postprocessing"]] == [
            ("max", ["new"]), ("mean", ["old"])]

    def test_refuses_other_conditions(self, tables: ModuleType) -> None:
        with pytest.raises(OptionError, match="differ in plans"):
            tables.merge(comparison(training("stacked", 0.5)), comparison(training("stacked", 0.5), plans="Other"))


def test_writes_tables_and_page_from_a_comparison(tables: ModuleType, tmp_path: Path) -> None:
    """From an f4s_compare's JSON to the page, by the command alone; what stands around the table is left as it is."""
    full = json.loads((ROOT / "benchmarks" / "figures" / "compare_505.json").read_text())
    (tmp_path / "comparison.json").write_text(json.dumps(full))
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- table scores mine rows=stacked folds=0 -->\nold\n<!-- end -->\nafter\n")
    figures, whole = tmp_path / "mine.json", tmp_path / "whole.md"
    assert tables.main([str(page), "--figures", str(tmp_path), "--add", str(tmp_path / "comparison.json"), str(figures),
                        "--page", str(figures), str(whole)]) == 0
    before, *table, after = page.read_text().splitlines()
    assert (before, after) == ("before", "after")
    dice = [one["segmentation"]["foreground_mean"]["Dice"] for one in full["results"]
            if (one["name"], one["fold"]) == ("stacked", 0)]
    assert f"| {sum(dice) / len(dice):.3f} ± ".replace("0.", ".") in table[-2]
    assert whole.read_text() == format_markdown(full)


def test_figures_are_kept_to_five_digits_a_training_a_line(tables: ModuleType, tmp_path: Path) -> None:
    found = comparison(training("stacked", 1 / 3), training("max", 2 / 3), postprocessing=[])
    tables.save_figures(found, tmp_path / "figures.json")
    text = (tmp_path / "figures.json").read_text()
    assert [one["segmentation"]["foreground_mean"]["Dice"] for one in json.loads(text)["results"]] == [0.33333, 0.66667]
    assert json.loads(text).keys() == found.keys()
    assert [line.count('"name": "stacked"') + 2 * line.count('"name": "max"') for line in text.splitlines()
            if '"fold"' in line] == [1, 2]

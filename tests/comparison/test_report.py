"""Tables of a comparison: means, spreads, differences case by case, and how they are read."""

from __future__ import annotations

import math
from typing import Any

import pytest

from fuse4seg.comparison.report import (
    convergence,
    difference,
    format_markdown,
    format_text,
    fusion_table,
    reading,
    segmentation_table,
)


def result(name: str, dice: dict[str, float | None], *, seed: int = 0, ours: bool = False, pretrain_epochs: int = 0,
           pseudo_dice: tuple[float, ...] = (0.1, 0.2, 0.3), ssim: float | None = None) -> dict[str, Any]:
    known = [value for value in dice.values() if value is not None]
    found = {"name": name, "ours": ours, "fold": 0, "seed": seed, "parameters": 2_500_000, "seconds_per_iteration": 0.5,
             "seconds_per_case": 3.0, "pretrain_epochs": pretrain_epochs, "iterations": 2, "pseudo_dice": list(pseudo_dice),
             "largest_component": {"foreground_mean": {"HD95": 2.5 + seed}},
             "segmentation": {"foreground_mean": {"Dice": sum(known) / len(known), "IoU": 0.5, "HD95": None},
                              "cases": {case: {"core": {"Dice": value}, "rest": {"Dice": None}}
                                        for case, value in dice.items()}}}
    return found if ssim is None else {**found, "fusion": {"mean": {"EN": 4.0, "SSIM": ssim}}}


CASES = [f"case{index}" for index in range(8)]
PEER = [result("stacked", dict.fromkeys(CASES, 0.5)), result("stacked", dict.fromkeys(CASES, 0.7), seed=1)]
OURS = [result("fuse4seg", {case: 0.7 + 0.01 * index for index, case in enumerate(CASES)}, ours=True, ssim=1.5, seed=seed)
        for seed in (0, 1)]


class TestSegmentationTable:
    def test_gives_mean_and_spread_over_the_trainings(self) -> None:
        header, rows = segmentation_table([*PEER, *OURS])
        stacked = dict(zip(header, rows[0], strict=True))
        assert (stacked["row"], stacked["runs"], stacked["Dice"]) == ("stacked", "2", "0.600 ± 0.141")
        assert stacked["of the largest component"] == "3.000 ± 0.707"
        assert (stacked["HD95 (mm)"], stacked["Dice less stacked"], stacked["parameters"]) == ("-", "-", "2.50 M")

    def test_tests_each_row_against_stacked_over_cases(self) -> None:
        header, rows = segmentation_table([*PEER, *OURS])
        ours = dict(zip(header, rows[1], strict=True))
        assert ours["Dice less stacked"].startswith("+0.135 (+0.1")
        assert float(ours["p"]) == pytest.approx(2 / 2**8, abs=1e-3)


class TestDifference:
    def test_averages_over_seeds_and_leaves_out_what_is_undefined(self) -> None:
        other = [result("max", {"case0": 0.5, "case1": None, "elsewhere": 0.1}, seed=seed) for seed in (0, 1)]
        found = difference([*PEER, *other], "stacked", "max")
        assert found is not None
        assert (found.pairs, found.left_out, found.difference) == (1, 1, pytest.approx(0.1))

    def test_takes_only_seeds_that_both_rows_have(self) -> None:
        """The peer's second seed is .2 better, and T1 has no second seed to set beside it."""
        found = difference([*PEER, result("T1", dict.fromkeys(CASES, 0.5))], "stacked", "T1")
        assert found is not None
        assert found.difference == pytest.approx(0)
        assert difference([PEER[1], result("T1", dict.fromkeys(CASES, 0.5))], "stacked", "T1") is None

    def test_is_none_without_a_case_in_common(self) -> None:
        assert difference([*PEER, result("max", {"elsewhere": 0.1})], "stacked", "max") is None


class TestFusionTable:
    def test_holds_rows_with_fused_images_and_the_trivial_ones(self) -> None:
        trivial = [{"maximum": {"mean": {"EN": 5.0, "SSIM": value}}} for value in (1.0, 1.4)]
        header, rows = fusion_table([*PEER, *OURS], trivial)
        assert header == ["row", "EN", "SSIM"]
        assert rows == [["fuse4seg", "4.000", "1.500"], ["maximum", "5.000", "1.200"]]


    def test_gives_visibility_over_all_boundaries_and_a_dash_for_what_a_row_has_not(self) -> None:
        """All sources together have visibility alone; of single boundaries there are too many for a table."""
        seen = {"visibility core|rest": 0.9, "visibility surrounding|core": 0.7, "visibility": 0.8}
        ours = [{**one, "fusion": {"mean": {**one["fusion"]["mean"], **seen}}} for one in OURS]
        header, rows = fusion_table([*PEER, *ours], [{"all_sources": {"mean": {"visibility": 0.95}}}])
        assert header == ["row", "EN", "SSIM", "visibility"]
        assert rows == [["fuse4seg", "4.000", "1.500", "0.800"], ["all_sources", "-", "-", "0.950"]]


class TestConvergence:
    def test_counts_both_stages_up_to_stacked_s_last_dice(self) -> None:
        peer = result("stacked", {"a": 0.5}, pseudo_dice=(0.0, 0.3, 0.3, 0.3))
        ours = result("fuse4seg", {"a": 0.5}, ours=True, pretrain_epochs=1, pseudo_dice=(0.3, 0.3, 0.3, 0.3))
        never = result("lame", {"a": 0.5}, ours=True, pseudo_dice=(0.1, 0.1, 0.1, 0.1))
        assert convergence([peer, ours, never]) == {"fuse4seg": pytest.approx(2 / 4), "lame": math.inf}

    def test_counts_iterations_where_a_row_has_fewer_in_an_epoch(self) -> None:
        peer = {**result("stacked", {"a": 0.5}, pseudo_dice=(0.0, 0.3, 0.3, 0.3)), "iterations": 8}
        ours = result("fuse4seg", {"a": 0.5}, ours=True, pretrain_epochs=1, pseudo_dice=(0.3, 0.3, 0.3, 0.3))
        assert convergence([peer, ours]) == {"fuse4seg": pytest.approx(2 * 2 / (4 * 8))}

    def test_needs_stacked_nnunet(self) -> None:
        assert convergence(OURS) == {}

    def test_compares_the_same_seeds(self) -> None:
        """A seed that one row alone has does not move the aim."""
        peers = [{**result("stacked", {"a": 0.5}, pseudo_dice=values), "seed": seed}
                 for seed, values in ((0, (0.9, 0.9, 0.9, 0.9)), (1, (0.0, 0.3, 0.3, 0.3)))]
        ours = {**result("fuse4seg", {"a": 0.5}, ours=True, pseudo_dice=(0.0, 0.3, 0.6, 0.6)), "seed": 1}
        assert convergence([*peers, ours]) == {"fuse4seg": pytest.approx(3 / 4)}


class TestReading:
    COMPARISON = {"dataset": "Dataset990_Phantom", "configuration": "2d", "plans": "P", "patch_size": [8, 8], "batch_size": 2,
                  "folds": [0], "seeds": [0, 1], "budget": {"epochs": 3, "iterations": 2, "pretrain_epochs": 1},
                  "calls": [{"machine": "CPU", "versions": "torch 2", "command": f"f4s_compare 990 2d --seeds {seed}"}
                            for seed in (0, 1)], "trivial": []}

    def test_says_what_is_told_apart(self) -> None:
        lines = reading({**self.COMPARISON, "results": [*PEER, *OURS]})
        assert lines[0].startswith("Dice of fuse4seg less stacked, cases: 8: +0.135")
        assert lines[0].endswith("higher.")
        equal = [result("fuse4seg", dict.fromkeys(CASES, 0.6), ours=True, seed=seed) for seed in (0, 1)]
        same = reading({**self.COMPARISON, "results": [*PEER, *equal]})
        assert same[0].endswith("not told apart.")

    def test_says_which_means_are_of_other_trainings(self) -> None:
        lines = reading({**self.COMPARISON, "results": [*PEER, *OURS, result("T1", dict.fromkeys(CASES, 0.5))]})
        assert [line for line in lines if line.startswith("Not trained")] == [
            "Not trained in the same folds with the same seeds as stacked: T1. Compare their differences, not their means."]
        assert not any("Not trained" in line for line in reading({**self.COMPARISON, "results": [*PEER, *OURS]}))
        assert not any("Not trained" in line for line in reading({**self.COMPARISON, "results": OURS}))

    def test_page_says_how_many_iterations_a_budget_in_minutes_gave(self) -> None:
        budget = {"epochs": 3, "iterations": None, "minutes": 1.5, "pretrain_epochs": 1}
        page = format_markdown({**self.COMPARISON, "budget": budget, "results": [PEER[0], {**OURS[0], "iterations": 1}]})
        assert "1.5 minutes in 3 epochs, ours with 1 of pre-training; iterations per epoch: stacked 2, fuse4seg 1." in page

    def test_page_has_command_conditions_and_tables(self) -> None:
        page = format_markdown({**self.COMPARISON, "results": [*PEER, *OURS]})
        assert "    f4s_compare 990 2d --seeds 0\n    f4s_compare 990 2d --seeds 1\n" in page
        assert page.count("CPU, torch 2") == 1
        assert "| stacked | 2 | 0.600 ± 0.141 |" in page
        assert "| fuse4seg | 4.000 | 1.500 |" in page
        assert "- Dice of fuse4seg less stacked" in page


def test_text_leaves_empty_tables_out() -> None:
    assert format_text([(["row", "EN"], []), (["row"], [["a"]])]) == "row\n---\na"

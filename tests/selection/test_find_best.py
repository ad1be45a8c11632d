"""The best configuration: by nnU-Net's numbers, the cheapest of what cannot be told apart, and with post-processing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from fuse4seg.cli.reference import parser_of
from fuse4seg.errors import FoldError, OptionError
from fuse4seg.evaluation.postprocessing import read_rules
from fuse4seg.inference.find_model import TrainedModel
from fuse4seg.selection.find_best import FIND_BEST, Result, choose, find_best
from fuse4seg.selection.validated import Candidate, chosen_models

MakeValidated = Callable[..., Path]


def with_island(labels: np.ndarray, number: int) -> np.ndarray:
    """A false find in a corner."""
    labels[1:3, 1:4, 1:3 + number] = 1
    return labels


def wrong_half(labels: np.ndarray, number: int, *, upper: bool) -> np.ndarray:
    """All of a half is missed, of which the network is not sure."""
    middle = np.argwhere(labels > 0)[:, 1].mean().astype(int)
    labels[:, :middle] *= upper
    labels[:, middle:] *= not upper
    return labels


class Costing(Candidate):
    """A candidate of a given cost."""

    cost = (0, 0)


def result(name: str, dice: list[float], cost: tuple[int, int]) -> Result:
    candidate = type(name, (Costing,), {"cost": cost})(name, (TrainedModel(Path(name), (0,)),), (0,), ())
    return Result(candidate, np.stack([np.array(dice)[:, None]] * 2))


class TestChoice:
    NOISE = np.random.default_rng(0).normal(0, 0.1, 40)

    def test_is_the_best_where_it_can_be_told_apart(self) -> None:
        better = result("better", list(0.8 + self.NOISE), (2, 900))
        worse = result("worse", list(0.7 + self.NOISE), (1, 100))
        best, chosen, tests = choose([worse, better])
        assert (best.name, chosen.name) == ("better", "better")
        assert tests["worse"].difference == pytest.approx(0.1)

    def test_is_the_cheaper_of_two_that_cannot_be_told_apart(self) -> None:
        differences = 0.002 + 0.05 * np.random.default_rng(1).normal(size=40)
        better = result("better", list(0.8 + self.NOISE + np.abs(differences.mean()) + differences), (2, 100))
        others = [result("fewer", list(0.8 + self.NOISE + differences.mean()), (1, 900)),
                  result("smaller", list(0.8 + self.NOISE + differences.mean()), (1, 800)),
                  result("worse", list(0.4 + self.NOISE), (1, 1))]
        best, chosen, tests = choose([*others, better])
        assert (best.name, chosen.name) == ("better", "smaller")
        for name, apart in (("fewer", False), ("worse", True)):
            # By SciPy's t interval, which is close to the bootstrap's at 40 cases.
            pairs = np.array(better.dice) - np.array(next(other for other in others if other.candidate.name == name).dice)
            interval = stats.ttest_1samp(pairs, 0).confidence_interval()
            assert tests[name].interval == pytest.approx((interval.low, interval.high), abs=0.004)
            assert (interval.low > 0) == (tests[name].interval[0] > 0) == apart

    def test_of_one_case_is_the_cheapest(self) -> None:
        _, chosen, _ = choose([result("better", [0.9], (2, 1)), result("cheaper", [0.1], (1, 1))])
        assert chosen.name == "cheaper"

    def test_of_equals_is_the_cheaper(self) -> None:
        best, chosen, _ = choose([result("two", [0.5, 0.6], (2, 1)), result("one", [0.5, 0.6], (1, 1))])
        assert (best.name, chosen.name) == ("one", "one")


class TestFindBest:
    def test_scores_as_nnu_net_does(self, make_validated: MakeValidated) -> None:
        model = make_validated("2d", with_island)
        choice = find_best(chosen_models("990"))
        cases = [case["metrics"] for fold in (0, 1) for case in json.loads(
            (model / f"fold_{fold}" / "validation" / "summary.json").read_text())["metric_per_case"]]
        expected = np.mean([np.nanmean([case[label]["Dice"] for case in cases]) for label in "123"])
        assert choice.results[0].mean(0) == pytest.approx(expected, abs=1e-12)
        assert choice.verdict == "2d is the only candidate"

    def test_leaves_post_processing_beside_the_model(self, make_validated: MakeValidated) -> None:
        model = make_validated("2d", with_island)
        choice = find_best(chosen_models("990"))
        rules = read_rules([model], known=range(4))
        # Another class has a true island of three voxels, so not of all foreground.
        assert [(rule.labels, rule.rule) for rule in rules] == [((1,), "largest_component")]
        assert choice.learnt.after["HD95"] < choice.learnt.before["HD95"]
        assert choice.learnt.after["Dice"] > choice.learnt.before["Dice"]
        content = json.loads((model.parent / FIND_BEST).read_text())
        assert content["chosen"] == content["best"] == "2d"
        assert content["postprocessing"] == json.loads((model / "postprocessing.json").read_text())["alone"]

    def test_leaves_earlier_rules_where_one_fold_can_teach_none(self, make_validated: MakeValidated) -> None:
        model = make_validated("2d", with_island)
        find_best(chosen_models("990"))
        learnt = (model / "postprocessing.json").read_text()
        assert "Rules that were learnt before stay" in find_best(chosen_models("990"), folds=[0]).format()
        assert (model / "postprocessing.json").read_text() == learnt

    def test_takes_an_ensemble_that_is_better_and_says_how_to_predict_with_it(self, make_validated: MakeValidated) -> None:
        # Each is sure of what it found, and not of what it missed.
        folders = [make_validated("2d", lambda labels, number: wrong_half(labels, number, upper=True)),
                   make_validated("3d_fullres", lambda labels, number: wrong_half(labels, number, upper=False))]
        for folder in folders:
            for path in folder.glob("fold_*/validation/*.npz"):
                shares = np.load(path)["probabilities"]
                unsure = shares.argmax(0) == 0
                shares[:, unsure] = 0.25
                shares[0, unsure] = 0.4
                np.savez(path, probabilities=shares)
        choice = find_best(chosen_models("990"))
        assert choice.chosen.name == "2d + 3d_fullres"
        assert choice.results[2].mean(0) == pytest.approx(1, abs=0.05)
        assert "can be told apart from all others" in choice.verdict
        words = choice.format().splitlines()[-1].split()
        options = parser_of(words[0]).parse_args(words[1:])
        assert (options.configurations, options.plans, options.folds) == (["2d", "3d_fullres"], ["Fuse4SegPlans"], [0, 1])
        assert "together_with" in json.loads((folders[0] / "postprocessing.json").read_text())
        assert not (folders[1] / "postprocessing.json").exists()
        alone = find_best(chosen_models("990"), ensembles=False)
        assert len(alone.results) == 2

    def test_scores_regions_and_leaves_ignored_voxels_out(self, make_validated: MakeValidated) -> None:
        labels = {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}
        model = make_validated("2d", lambda true, number: 2 * with_island(true > 0, number).astype(np.uint8), labels=labels,
                               regions_class_order=[1, 2])
        choice = find_best(chosen_models("990"))
        cases = [case["metrics"] for fold in (0, 1) for case in json.loads(
            (model / f"fold_{fold}" / "validation" / "summary.json").read_text())["metric_per_case"]]
        expected = [np.nanmean([case[key]["Dice"] for case in cases]) for key in ("(1, 2)", "2")]
        assert choice.results[0].values[0].mean(axis=0) == pytest.approx(expected, abs=1e-12)
        rules = read_rules([model], known=range(4))
        assert [(rule.labels, rule.rule) for rule in rules][:1] == [((1, 2), "largest_component")]

    def test_leaves_a_damaged_case_out_of_all_candidates(self, make_validated: MakeValidated) -> None:
        models = [make_validated(name, with_island) for name in ("2d", "3d_fullres")]
        (models[1] / "fold_0" / "validation" / "phantom_001.nii.gz").write_bytes(b"no image")
        choice = find_best(chosen_models("990"), ensembles=False)
        assert [found.values.shape[1] for found in choice.results] == [4, 4]
        fault, = choice.faults
        assert "phantom_001" in fault
        for path in models[0].glob("fold_*/validation/*.nii.gz"):
            path.write_bytes(b"no image")
        with pytest.raises(FoldError, match="no validation case could be scored"):
            find_best(chosen_models("990"), ensembles=False)

    def test_refuses_models_of_other_classes(self, make_validated: MakeValidated) -> None:
        make_validated("2d", with_island)
        make_validated("3d_fullres", with_island, labels={"background": 0, "c": 1, "b": 2, "a": 3})
        with pytest.raises(OptionError, match="3d_fullres has the labels"):
            find_best(chosen_models("990"))

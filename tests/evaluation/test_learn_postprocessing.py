"""Post-processing that is learnt: what helps on cases that did not choose it, and nothing else; against scikit-learn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from sklearn.metrics import f1_score

from fuse4seg.background import WatchedPool
from fuse4seg.evaluation.learn_postprocessing import VOLUMES, Scoring, ValidationCase, candidates, helps, learn
from fuse4seg.evaluation.postprocessing import FOREGROUND, HOLES, LARGEST, SMALLEST, apply_rules

ONE = {"labels": {"background": 0, "tumour": 1}, "file_ending": ".nii.gz"}
TWO = {"labels": {"background": 0, "core": 1, "oedema": 2}, "file_ending": ".nii.gz"}
REGIONS = {"labels": {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}, "regions_class_order": [1, 2],
           "file_ending": ".nii.gz"}
SHAPE = (6, 20, 20)


def cube(place: tuple[int, int, int] = (1, 1, 1), edge: int = 4, label: int = 1) -> np.ndarray:
    """A cube on a background of zeros, on voxels of 1 mm."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[tuple(slice(start, start + edge) for start in place)] = label
    return labels


def island(label: int = 1, edge: int = 2) -> np.ndarray:
    """Far from the cube."""
    return cube((3, 15, 15), edge, label)


def scoring(folder: Path, pairs: Sequence[tuple[int, np.ndarray, np.ndarray]], dataset_json: dict[str, Any] = ONE,
            pool: WatchedPool | None = None) -> Scoring:
    """Of cases of (fold, prediction, truth), written to files."""
    cases = []
    for number, (fold, *labels) in enumerate(pairs):
        paths = [folder / kind / f"case_{number}.nii.gz" for kind in ("predicted", "true")]
        for path, image in zip(paths, labels, strict=True):
            path.parent.mkdir(exist_ok=True)
            sitk.WriteImage(sitk.GetImageFromArray(image), str(path))
        cases.append(ValidationCase(f"case_{number}", fold, *paths))
    return Scoring(cases, dataset_json, SimpleITKIO, pool)


class TestWhatHelps:
    def test_on_every_fold_is_kept_and_its_gain_is_that_on_held_out_cases(self, tmp_path: Path) -> None:
        pairs = [(fold, cube() + island(), cube()) for fold in (0, 1, 2)]
        learnt = learn(scoring(tmp_path, pairs))
        rule, = learnt.rules
        assert (rule.about, rule.labels, rule.rule) == (FOREGROUND, (1,), LARGEST)
        before = np.mean([f1_score(truth.ravel(), predicted.ravel()) for _, predicted, truth in pairs])
        assert learnt.before["Dice"] == pytest.approx(before)
        assert learnt.after == {"Dice": 1.0, "HD95": 0.0}
        gain, = learnt.gains
        assert gain["Dice"] == pytest.approx(1 - before)
        assert gain["HD95"] == pytest.approx(-learnt.before["HD95"])
        assert learnt.before["HD95"] > 10
        assert (learnt.folds, learnt.cases) == ((0, 1, 2), 3)
        np.testing.assert_array_equal(learnt.held_out, [[[1]] * 3, [[0]] * 3])

    def test_on_one_fold_and_harms_on_another_is_not_kept(self, tmp_path: Path) -> None:
        # Four false islands in one fold, one true second lesion in the other: on all cases together, clearing helps.
        pairs = [*((0, cube() + island(edge=3), cube()) for _ in range(4)), (1, cube() + island(), cube() + island())]
        learnt = learn(scoring(tmp_path, pairs))
        cleared = [(fold, apply_rules(predicted, candidates({"tumour": 1})[0][:1], spacing=(1, 1, 1)), truth)
                   for fold, predicted, truth in pairs]
        dice = [[f1_score(truth.ravel(), predicted.ravel()) for _, predicted, truth in each] for each in (pairs, cleared)]
        assert np.mean(dice[1]) > np.mean(dice[0])
        assert dice[1][-1] < dice[0][-1]
        assert learnt.rules == ()
        assert learnt.after == learnt.before

    def test_of_a_volume_that_tells_true_from_false_islands(self, tmp_path: Path) -> None:
        # 27 mm3 are true, 8 are not; the largest component alone would lose the true ones.
        pairs = [(fold, cube() + island(edge=3) + cube((0, 1, 15), 2), cube() + island(edge=3)) for fold in (0, 1, 2, 3)]
        learnt = learn(scoring(tmp_path, pairs))
        rule, = learnt.rules
        assert (rule.rule, rule.volume) == (SMALLEST, 10.0)
        assert learnt.after["Dice"] == 1

    def test_of_holes(self, tmp_path: Path) -> None:
        hollow = cube()
        hollow[2, 2, 2] = 0
        learnt = learn(scoring(tmp_path, [(fold, hollow, cube()) for fold in (0, 1, 2)]))
        rule, = learnt.rules
        assert rule.rule == HOLES

    def test_is_looked_for_in_each_class(self, tmp_path: Path) -> None:
        # Two true lesions of oedema, so the foreground keeps both; but there is one core.
        truth = cube(label=2) + island(2, 3)
        truth[2, 2, 2:4] = 1
        predicted = truth.copy()
        predicted[4, 16, 16] = 1
        learnt = learn(scoring(tmp_path, [(fold, predicted, truth) for fold in (0, 1, 2)], TWO))
        assert [(rule.about, rule.labels, rule.rule) for rule in learnt.rules][:1] == [("core", (1,), LARGEST)]

    def test_in_regions_with_voxels_that_do_not_count(self, tmp_path: Path) -> None:
        truth = cube(label=1)
        truth[2, 2, 2] = 2
        ignored = island(3)
        # What lies where the reference is ignored is no mistake; what lies elsewhere is one, of both regions.
        predicted = truth + island(1) + cube((0, 1, 15), 2, label=2)
        learnt = learn(scoring(tmp_path, [(fold, predicted, truth + ignored) for fold in (0, 1, 2)], REGIONS))
        assert learnt.rules[0].labels == (1, 2)
        assert learnt.after == {"Dice": 1.0, "HD95": 0.0}
        alone = learn(scoring(tmp_path, [(fold, truth + island(1), truth + ignored) for fold in (0, 1, 2)], REGIONS))
        assert alone.rules == ()
        assert alone.before["Dice"] == 1

    def test_in_pictures(self, tmp_path: Path) -> None:
        hollow, truth = cube()[2:3].copy(), cube()[2:3]
        hollow[0, 2, 2] = 0
        learnt = learn(scoring(tmp_path, [(fold, hollow + island()[3:4], truth) for fold in (0, 1, 2)]))
        assert [rule.rule for rule in learnt.rules] == [LARGEST, HOLES]
        assert learnt.after["Dice"] == 1


class TestLearning:
    def test_from_one_fold_is_none(self, tmp_path: Path) -> None:
        learnt = learn(scoring(tmp_path, [(0, cube() + island(), cube())] * 3))
        assert learnt.rules == ()
        assert learnt.before["Dice"] < 1

    def test_from_two_folds(self, tmp_path: Path) -> None:
        learnt = learn(scoring(tmp_path, [(fold, cube() + island(), cube()) for fold in (3, 7)]))
        assert [rule.rule for rule in learnt.rules] == [LARGEST]
        assert learnt.folds == (3, 7)

    def test_leaves_a_damaged_case_out_and_names_it(self, tmp_path: Path) -> None:
        scored = scoring(tmp_path, [(fold, cube() + island(), cube()) for fold in (0, 1, 2, 2)])
        scored.cases[3].prediction.write_bytes(b"no image")
        learnt = learn(scored)
        assert learnt.cases == 3
        assert str(scored.cases[3].prediction) in scored.faults[3]
        assert len(learnt.rules) == 1

    def test_is_the_same_with_more_processes(self, tmp_path: Path) -> None:
        pairs = [(fold, cube() + island(), cube()) for fold in (0, 1)]
        with closing(WatchedPool(2)) as pool:
            assert learn(scoring(tmp_path, pairs)) == learn(scoring(tmp_path, pairs, pool=pool))

    def test_gives_plain_data(self, tmp_path: Path) -> None:
        plain = learn(scoring(tmp_path, [(fold, cube() + island(), cube()) for fold in (0, 1)])).to_plain()
        assert plain["rules"][0]["class"] == FOREGROUND
        assert plain["rules"][0]["gain"]["HD95"] < 0
        assert plain["held_out"]["after"] == {"Dice": 1.0, "HD95": 0.0}
        empty = learn(scoring(tmp_path, [(fold, 0 * cube(), 0 * cube()) for fold in (0, 1)])).to_plain()
        assert empty["held_out"]["before"] == {"Dice": None, "HD95": None}


class TestCandidates:
    def test_are_few_and_begin_with_the_foreground(self) -> None:
        steps = candidates({"whole": (1, 2, 3), "core": (2, 3)})
        assert [(step[0].about, step[0].labels, len(step)) for step in steps] == [
            (FOREGROUND, (1, 2, 3), 1 + len(VOLUMES)), (FOREGROUND, (1, 2, 3), 1), ("core", (2, 3), 1 + len(VOLUMES)),
            ("core", (2, 3), 1)]


class TestHelps:
    BEFORE = np.array([[[0.5, 0.9], [0.7, 0.7]], [[9.0, 2.0], [3.0, math.nan]]])

    def changed(self, metric: int, case: int, column: int, value: float) -> np.ndarray:
        after = self.BEFORE.copy()
        after[metric, case, column] = value
        return after

    def test_one_class_must_not_pay_for_another(self) -> None:
        after = self.changed(0, 0, 0, 0.8)
        assert helps(self.BEFORE, after)
        after[0, 1, 1] = 0.69
        assert not helps(self.BEFORE, after)

    def test_a_false_find_that_goes_counts_by_nnu_net_s_mean(self) -> None:
        assert helps(self.changed(0, 0, 0, 0.0), self.changed(0, 0, 0, math.nan))

    def test_a_distance_that_is_no_longer_defined_is_no_gain(self) -> None:
        assert not helps(self.BEFORE, self.changed(1, 0, 0, math.nan))

"""Rules of post-processing: against nnU-Net and scikit-image, by hand, and by the laws that they follow."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunetv2.postprocessing.remove_connected_components import remove_all_but_largest_component_from_segmentation
from skimage.morphology import remove_small_objects

from fuse4seg.errors import UnreadableRecordError
from fuse4seg.evaluation.postprocessing import (
    HOLES,
    LARGEST,
    POSTPROCESSING,
    RULES,
    SMALLEST,
    Rule,
    apply_rules,
    read_rules,
    write_rules,
)

SPACING = (2.0, 1.0, 0.5)


def noise(seed: int, shape: tuple[int, int, int] = (6, 14, 12)) -> np.ndarray:
    """Labels 0 to 3, so sparse that there are many components."""
    return np.random.default_rng(seed).choice(4, shape, p=[0.91, 0.03, 0.03, 0.03]).astype(np.uint8)


def rule_of(kind: str, labels: tuple[int, ...] = (1, 2, 3), volume: float = 3.0) -> Rule:
    return Rule("tumour", labels, kind, volume if kind == SMALLEST else None)


class TestLargestComponent:
    @pytest.mark.parametrize("labels", [(1,), (2, 3), (1, 2, 3)])
    @pytest.mark.parametrize("shape", [(6, 14, 12), (1, 30, 30)])
    def test_is_nnu_net_s(self, labels: tuple[int, ...], shape: tuple[int, int, int]) -> None:
        for seed in range(5):
            expected = remove_all_but_largest_component_from_segmentation(noise(seed, shape), labels)
            found = apply_rules(noise(seed, shape), [rule_of(LARGEST, labels)], spacing=SPACING)
            assert found.dtype == np.uint8
            assert (found != noise(seed, shape)).any()
            np.testing.assert_array_equal(found, expected)

    def test_keeps_all_of_equal_size(self) -> None:
        labels = np.array([[[1, 0, 2, 0, 0]]])
        assert apply_rules(labels, [rule_of(LARGEST)], spacing=SPACING).tolist() == labels.tolist()


class TestSmallestVolume:
    @pytest.mark.parametrize("voxels", [2, 5, 40])
    def test_is_scikit_image_s(self, voxels: int) -> None:
        for seed in range(5):
            labels = noise(seed)
            kept = remove_small_objects(labels > 0, max_size=voxels - 1, connectivity=3)
            found = apply_rules(labels, [rule_of(SMALLEST, volume=float(voxels))], spacing=(2.0, 1.0, 0.5))
            np.testing.assert_array_equal(found, np.where(kept, labels, 0))

    def test_counts_cubic_millimetres(self) -> None:
        labels = np.array([[[1, 1, 0, 1]]])
        for spacing, expected in (((1, 1, 1), [0, 0, 0, 0]), ((1, 1, 2), [1, 1, 0, 0]), ((2, 2, 1), [1, 1, 0, 1])):
            found = apply_rules(labels, [rule_of(SMALLEST, (1,), volume=4.0)], spacing=spacing)
            assert found[0, 0].tolist() == expected


class TestHoles:
    def test_of_a_shell_get_its_label(self) -> None:
        labels = np.zeros((5, 5, 5), np.uint8)
        labels[1:4, 1:4, 1:4] = 2
        labels[2, 2, 2] = 0
        filled = apply_rules(labels, [rule_of(HOLES, (2,))], spacing=SPACING)
        assert filled[2, 2, 2] == 2
        assert (filled != labels).sum() == 1

    def test_of_the_foreground_get_the_label_of_the_nearest_voxel_in_millimetres(self) -> None:
        labels = np.ones((1, 5, 7), np.uint8)
        labels[0, 1:4, 1:6] = 0
        labels[0, :, 6] = 2
        filled = apply_rules(labels, [rule_of(HOLES)], spacing=(1.0, 10.0, 1.0))
        assert filled[0, 2].tolist() == [1, 1, 1, 1, 2, 2, 2]  # in the middle, the first of equals

    def test_that_are_open_in_the_third_dimension_are_none(self) -> None:
        ring = np.pad(np.pad(np.zeros((1, 1), np.uint8), 1, constant_values=1), 1)
        for slices in (2, 3):
            tube = np.stack([ring] * slices)
            assert apply_rules(tube, [rule_of(HOLES)], spacing=SPACING) is tube
        within = np.stack([np.zeros_like(ring), ring, np.zeros_like(ring)])
        assert apply_rules(within, [rule_of(HOLES)], spacing=SPACING) is within
        assert apply_rules(ring[None], [rule_of(HOLES)], spacing=SPACING)[0, 2, 2] == 1

    def test_of_a_class_leave_other_classes_within_it_alone(self) -> None:
        labels = np.ones((1, 5, 5), np.uint8)
        labels[0, 2, 1:4] = (2, 0, 2)
        filled = apply_rules(labels, [rule_of(HOLES, (1,))], spacing=(1, 1, 1))
        assert filled[0, 2].tolist() == [1, 2, 1, 2, 1]


class TestAnyRule:
    @settings(deadline=None, max_examples=40)
    @given(seed=st.integers(0, 999), kind=st.sampled_from(RULES), value=st.sampled_from([(1,), (1, 3), (1, 2, 3)]))
    def test_twice_is_once_and_touches_nothing_else(self, seed: int, kind: str, value: tuple[int, ...]) -> None:
        labels, before = noise(seed), noise(seed)
        once = apply_rules(labels, [rule_of(kind, value)], spacing=SPACING)
        np.testing.assert_array_equal(labels, before)
        np.testing.assert_array_equal(apply_rules(once, [rule_of(kind, value)], spacing=SPACING), once)
        changed = once != before
        assert set(np.unique(before[changed])) <= ({0} if kind == HOLES else set(value))
        assert set(np.unique(once[changed])) <= (set(value) if kind == HOLES else {0})

    def test_of_nothing_is_the_same_array(self) -> None:
        empty = np.zeros((3, 3, 3), np.uint8)
        assert all(apply_rules(empty, [rule_of(kind)], spacing=SPACING) is empty for kind in RULES)

    def test_comes_after_the_one_before_it(self) -> None:
        labels = np.array([[[1, 1, 2, 0, 2, 2, 2]]])
        rules = [rule_of(LARGEST, (2,)), rule_of(LARGEST, (1, 2))]
        assert apply_rules(labels, rules, spacing=SPACING)[0, 0].tolist() == [0, 0, 0, 0, 2, 2, 2]
        assert apply_rules(labels, rules[::-1], spacing=SPACING)[0, 0].tolist() == [1, 1, 0, 0, 2, 2, 2]


class TestFile:
    RULES = (Rule("core", (1, 3), SMALLEST, 30.0), Rule("foreground", (1, 2, 3), HOLES))

    def learnt(self, *rules: Rule) -> dict[str, object]:
        return {"cases": 7, "rules": [{**rule.to_plain(), "gain": {"Dice": 0.1}} for rule in rules]}

    def test_keeps_a_model_s_rules_and_those_of_each_ensemble(self, tmp_path: Path) -> None:
        both = [tmp_path / "T__P__3d", tmp_path / "T__P__2d"]
        for folder in both:
            folder.mkdir()
        write_rules(self.learnt(*self.RULES), both)
        written = write_rules(self.learnt(self.RULES[1]), both[1:])
        write_rules(self.learnt(self.RULES[0]), [*both, tmp_path / "T__P__4d"])
        assert written == tmp_path / "T__P__2d" / POSTPROCESSING
        assert read_rules(both, known=range(4)) == read_rules(both[::-1], known=range(4)) == self.RULES
        assert read_rules(both[1:], known=range(4)) == self.RULES[1:]
        assert read_rules(both[:1], known=range(4)) == ()
        assert json.loads(written.read_text())["together_with"]["T__P__3d"]["cases"] == 7

    def test_is_plain(self, tmp_path: Path) -> None:
        path = write_rules(self.learnt(*self.RULES), [tmp_path])
        assert json.loads(path.read_text())["alone"]["rules"][0] == {
            "class": "core", "labels": [1, 3], "rule": "smallest_volume", "value": 30.0, "gain": {"Dice": 0.1}}

    def test_that_is_damaged_is_written_anew(self, tmp_path: Path) -> None:
        (tmp_path / POSTPROCESSING).write_text("{")
        write_rules(self.learnt(*self.RULES), [tmp_path])
        assert read_rules([tmp_path], known=range(4)) == self.RULES

    @pytest.mark.parametrize("content", [
        "{", "[]", '{"alone": {}}', '{"alone": {"rules": [{}]}}', '{"together_with": 3}',
        *(json.dumps({"alone": {"rules": [{"class": "core", "labels": [1], "rule": "fill_holes", "value": None, **change}]}})
          for change in ({"rule": "eval"}, {"labels": [9]}, {"labels": []}, {"labels": ["1"]}, {"class": 1}, {"value": 3},
                         {"rule": "smallest_volume"}, {"rule": "smallest_volume", "value": -1.0},
                         {"rule": "smallest_volume", "value": True}))])
    def test_that_holds_no_rules_is_refused_by_name(self, tmp_path: Path, content: str) -> None:
        (tmp_path / POSTPROCESSING).write_text(content)
        with pytest.raises(UnreadableRecordError, match=f"{tmp_path / POSTPROCESSING} .*f4s_find_best_configuration"):
            read_rules([tmp_path], known=range(4))

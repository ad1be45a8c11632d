"""Facts of a segmented case, and the laws of the score that cases are sorted by."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.measure import label

from fuse4seg.inference.doubt import components_of, doubt_score, facts_of
from fuse4seg.inference.model import ModelDescription

SHARES, DEVIATIONS = st.floats(0, 1), st.floats(-50, 50)


@pytest.fixture
def description(make_description: Callable[..., ModelDescription]) -> ModelDescription:
    """Of the phantom's plans, with a core and an oedema."""
    description = make_description("2d")
    description.dataset_json["labels"] = {"background": 0, "core": 1, "oedema": 2}
    return description


class TestFactsOf:
    def test_by_hand(self, description: ModelDescription) -> None:
        labels = np.zeros((2, 10, 10), np.uint8)
        labels[0, :2, :5], labels[1, 8:, 8:] = 1, 1
        volumes = {"core": [0.014 * 2.0**power for power in range(-3, 4)], "oedema": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]}
        description = replace(description, volumes=volumes)
        facts = facts_of(labels, (1.0, 1.0, 1.0), description, entropy=math.log(3) / 2, disagreement=0.2)
        assert facts["volumes"] == {"core": pytest.approx(0.014), "oedema": 0}
        doubt = facts["doubt"]
        assert (doubt["entropy"], doubt["disagreement"]) == (math.log(3) / 2, 0.2)
        assert doubt["components"] == {"core": 2, "oedema": 0}
        assert doubt["size"]["core"] == pytest.approx(0, abs=1e-9)
        assert doubt["size"]["oedema"] < -5  # every training case has one
        assert doubt["score"] == pytest.approx(1 - 0.8 * 3 / -doubt["size"]["oedema"])

    def test_does_without_a_training_set_and_without_a_boundary(self, description: ModelDescription) -> None:
        facts = facts_of(np.zeros((2, 4, 4), np.uint8), (1.0, 1.0, 1.0), description, entropy=None, disagreement=None)
        assert facts["doubt"] == {"entropy": None, "disagreement": None, "components": {"core": 0, "oedema": 0},
                                  "size": {"core": None, "oedema": None}, "score": 0}

    def test_of_regions_is_over_the_entropy_of_sigmoids(self, description: ModelDescription) -> None:
        description.dataset_json.update(labels={"background": 0, "whole": [1, 2], "core": 2}, regions_class_order=[1, 2])
        labels = np.array([[[0, 1, 2, 1, 0]]], np.uint8)
        facts = facts_of(labels, (10.0, 10.0, 10.0), description, entropy=math.log(2), disagreement=None)
        assert facts["volumes"] == {"whole": 3, "core": 1}
        assert facts["doubt"]["components"] == {"whole": 1, "core": 1}
        assert facts["doubt"]["score"] == pytest.approx(0.5)


class TestComponents:
    def test_are_scikit_images(self) -> None:
        labels = np.random.default_rng(0).choice(3, size=(6, 20, 20), p=(0.8, 0.1, 0.1)).astype(np.uint8)
        labels[:, :5] = 0
        masks = {"core": labels == 1, "oedema": labels == 2, "whole": labels > 0}
        assert components_of(labels, {"core": 1, "oedema": 2, "whole": (1, 2)}) == {
            name: label(mask, connectivity=3).max() for name, mask in masks.items()}


class TestScore:
    @given(SHARES, SHARES, DEVIATIONS, DEVIATIONS)
    def test_is_between_zero_and_one_and_is_what_the_formula_says(self, entropy: float, disagreement: float, one: float,
                                                                  other: float) -> None:
        score = doubt_score(entropy, disagreement, {"a": one, "b": other, "c": None})
        largest = max(abs(one), abs(other))
        assert 0 <= score <= 1
        assert score == pytest.approx(1 - (1 - disagreement) * min(1, 3 / max(largest, 1e-9)), abs=1e-12)

    @given(SHARES, DEVIATIONS)
    def test_goes_by_the_entropy_where_nothing_can_be_compared(self, entropy: float, size: float) -> None:
        assert doubt_score(entropy, None, {"a": size}) == doubt_score(None, entropy, {"a": size})

    @given(SHARES, SHARES, SHARES, DEVIATIONS)
    def test_no_part_lowers_it(self, low: float, high: float, other: float, size: float) -> None:
        low, high = sorted((low, high))
        for first, second in (((low, other, {"a": size}), (high, other, {"a": size})),
                              ((other, low, {"a": size}), (other, high, {"a": size})),
                              ((other, other, {"a": size * low}), (other, other, {"a": size * high}))):
            assert doubt_score(*first) <= doubt_score(*second) + 1e-12

    def test_what_is_unknown_is_no_doubt(self) -> None:
        assert doubt_score(None, None, {"a": None}) == doubt_score(0.0, 0.0, {"a": 0.0}) == doubt_score(None, None, {}) == 0

"""Facts of a segmented case, entropy by SciPy, disagreement by Dice of every pair, and the laws of the score."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from scipy.ndimage import binary_dilation, generate_binary_structure
from scipy.special import expit, softmax
from scipy.stats import entropy as scipys
from skimage.measure import label

from fuse4seg.evaluation.overlap import confusion, dice
from fuse4seg.inference.doubt import (
    BoundaryEntropy,
    Disagreement,
    components_of,
    doubt_score,
    entropy,
    facts_of,
    largest_entropy,
    votes_of,
)
from fuse4seg.inference.model import Model, ModelDescription
from fuse4seg.inference.predict_case import predict_case, segment_fused
from fuse4seg.inference.sliding_window import mirrored_copies, segment_windows
from fuse4seg.networks.fuse_then_segment import FuseThenSegment

SHARES, DEVIATIONS = st.floats(0, 1), st.floats(-50, 50)
MakeNetwork = Callable[..., FuseThenSegment]
MakeLoaded = Callable[..., Model]


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


def logits_of(*shape: int, seed: int = 0) -> torch.Tensor:
    return 4 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class TestEntropy:
    def test_of_a_softmax_is_scipys(self) -> None:
        logits = logits_of(4, 50)
        np.testing.assert_allclose(entropy(logits, regions=False), scipys(softmax(logits.double().numpy(), axis=0)), atol=1e-5)

    def test_of_regions_is_the_sum_of_theirs(self) -> None:
        logits = logits_of(3, 50)
        shares = expit(logits.double().numpy())
        np.testing.assert_allclose(entropy(logits, regions=True), scipys(np.stack([shares, 1 - shares])).sum(axis=0), atol=1e-5)

    @pytest.mark.parametrize("regions", [False, True])
    def test_runs_from_zero_to_the_largest_one(self, regions: bool) -> None:
        assert entropy(torch.zeros(3, 1), regions=regions).item() == pytest.approx(largest_entropy(3, regions=regions))
        sure = torch.tensor([[300.0], [-300.0], [-300.0]])
        assert entropy(sure, regions=regions).item() == 0
        assert (entropy(logits_of(3, 500), regions=regions) <= largest_entropy(3, regions=regions) + 1e-6).all()

    def test_the_largest_ones(self) -> None:
        assert largest_entropy(5, regions=False) == math.log(5)
        assert largest_entropy(5, regions=True) == 5 * math.log(2)


def boundary_mean(logits: torch.Tensor, labels: np.ndarray) -> float:
    """By dilation: a voxel is on the boundary where it touches, by a face, the outside of its own label."""
    faces = generate_binary_structure(labels.ndim, 1)
    boundary = np.any([(labels == value) & binary_dilation(labels != value, faces) for value in np.unique(labels)], axis=0)
    return float(entropy(logits.double(), regions=False).numpy()[boundary].mean())


class TestBoundaryEntropy:
    @given(st.integers(0, 1000), st.lists(st.integers(1, 3), min_size=1, max_size=5))
    @settings(deadline=None, max_examples=25)
    def test_is_the_mean_over_the_boundary_however_it_is_cut_into_blocks(self, seed: int, sizes: list[int]) -> None:
        logits = logits_of(3, sum(sizes), 5, 4, seed=seed)
        labels = np.random.default_rng(seed).integers(0, 3, logits.shape[1:], dtype=np.uint8)
        found, start = BoundaryEntropy(regions=False), 0
        for size in sizes:
            found.add(logits[:, start:start + size], labels[start:start + size])
            start += size
        assert found.mean == pytest.approx(boundary_mean(logits, labels), rel=1e-5)

    def test_looks_at_both_sides_of_the_boundary_and_nowhere_else(self) -> None:
        labels = np.zeros((1, 1, 6), np.uint8)
        labels[..., 3:] = 1
        logits = torch.full((2, 1, 1, 6), 0.0)
        logits[0] = torch.tensor([0.0, 0.0, 50.0, 0.0, 0.0, 0.0])
        found = BoundaryEntropy(regions=False)
        found.add(logits, labels)
        assert found.mean == pytest.approx(math.log(2) / 2)

    def test_is_none_without_a_boundary(self) -> None:
        found = BoundaryEntropy(regions=False)
        assert found.mean is None
        found.add(torch.zeros(2, 3, 4, 4), np.ones((3, 4, 4), np.uint8))
        assert found.mean is None


def tallied(segmentations: list[np.ndarray], classes: int = 3) -> Disagreement:
    """Of label images with values from 0 to ``classes``."""
    found = Disagreement(regions=False)
    votes = sum(np.stack([labels == value for value in range(1, classes + 1)])[None].astype(int) for labels in segmentations)
    found.add(torch.from_numpy(votes), voters=len(segmentations))
    return found


class TestVotes:
    def test_are_one_hot_labels_without_background(self) -> None:
        logits = torch.randn(2, 4, 5, 6, generator=torch.Generator().manual_seed(0))
        wanted = torch.nn.functional.one_hot(logits.argmax(dim=1), 4).movedim(-1, 1)[:, 1:].bool()
        assert torch.equal(votes_of(logits, regions=False), wanted)

    def test_of_regions_are_those_likelier_than_not(self) -> None:
        logits = torch.randn(2, 4, 5, 6, generator=torch.Generator().manual_seed(0))
        assert torch.equal(votes_of(logits, regions=True), logits.sigmoid() > 0.5)


class TestDisagreement:
    @given(st.integers(0, 10_000))
    @settings(deadline=None, max_examples=25)
    def test_of_two_is_one_less_their_dice(self, seed: int) -> None:
        pair = list(np.random.default_rng(seed).integers(0, 4, (2, 3, 4, 5)))
        mean = np.mean([dice(confusion(*pair, value)) for value in (1, 2, 3)])
        assert tallied(pair).value == pytest.approx(1 - mean, abs=1e-6)

    def test_pools_the_pairs_of_several(self) -> None:
        several = list(np.random.default_rng(0).integers(0, 4, (5, 3, 4, 5)))
        pairs = list(combinations(several, 2))
        expected = [sum(2 * ((one == value) & (other == value)).sum() for one, other in pairs)
                    / sum((one == value).sum() + (other == value).sum() for one, other in pairs) for value in (1, 2, 3)]
        assert tallied(several).value == pytest.approx(1 - np.mean(expected), abs=1e-6)

    def test_runs_from_alike_to_apart(self) -> None:
        one = np.array([0, 0, 1, 1])
        assert tallied([one, one, one]).value == 0
        assert tallied([one, one[::-1]]).value == 1

    def test_is_none_without_anything_to_compare_and_zero_where_nobody_segments_anything(self) -> None:
        assert Disagreement(regions=False).value is None
        assert tallied([np.zeros(4)] * 2).value == 0

    def test_parts_add_up_to_the_whole(self) -> None:
        votes = torch.randint(0, 4, (2, 3, 6, 5), generator=torch.Generator().manual_seed(0))
        whole, parts = Disagreement(regions=False), Disagreement(regions=False)
        whole.add(votes, voters=3)
        for part in votes.split(2, dim=2):
            parts.add(part, voters=3)
        assert parts.value == pytest.approx(whole.value)

    def test_what_weighs_nothing_does_not_count(self) -> None:
        votes = torch.tensor([[[2, 2, 1, 1]]])
        found = Disagreement(regions=False)
        found.add(votes, voters=2, weight=torch.tensor([1.0, 1.0, 0.0, 0.0]))
        assert found.value == 0


class TestOfCopies:
    def test_is_that_of_each_copy_s_labels(self, make_network: MakeNetwork) -> None:
        network = make_network(colours=1).segmentation
        image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) + 0.1
        apart = Disagreement(regions=False)
        given = {"patch_size": (16, 16), "step_size": 0.5, "device": torch.device("cpu"), "precision": torch.float32}
        mean = segment_windows(network, image, **given, mirror_axes=(0, 1), apart=apart)
        copies = [segment_windows(network, image.flip(axes), **given).flip(axes).argmax(dim=0).numpy()
                  for axes in mirrored_copies((0, 1), first=2)]
        assert apart.value == pytest.approx(tallied(copies).value, abs=1e-6)
        assert 0 < apart.value < 1
        assert torch.equal(mean, segment_windows(network, image, **given, mirror_axes=(0, 1)))

    def test_windows_weigh_as_they_are_blended(self, make_network: MakeNetwork) -> None:
        network = make_network(colours=1).segmentation
        image = torch.rand(1, 2, 24, 16, generator=torch.Generator().manual_seed(0)) + 0.1
        given = {"patch_size": (16, 16), "step_size": 0.5, "device": torch.device("cpu"), "precision": torch.float32}
        apart, parts = Disagreement(regions=False), Disagreement(regions=False)
        segment_windows(network, image, **given, mirror_axes=(0,), apart=apart)
        weight = compute_gaussian((16, 16), sigma_scale=1 / 8, value_scaling_factor=10, dtype=torch.float32,
                                  device=torch.device("cpu"))
        for start in (0, 8):
            window = image[:, :, start:start + 16]
            copies = [segment_windows(network, window.flip(axes), **given).flip(axes)
                      for axes in mirrored_copies((0,), first=2)]
            votes = sum(votes_of(copy.transpose(0, 1), regions=False).int() for copy in copies)
            parts.add(votes, voters=2, weight=weight)
        assert apart.value == pytest.approx(parts.value, abs=1e-5)


class TestOfACase:
    PROPERTIES = {"spacing": [1.0, 1.0, 1.0], "shape_before_cropping": (4, 20, 18),
                  "bbox_used_for_cropping": [[0, 4], [0, 20], [0, 18]],
                  "shape_after_cropping_and_before_resampling": (4, 20, 18)}

    def channels(self) -> torch.Tensor:
        return torch.randn(3, 4, 20, 18, generator=torch.Generator().manual_seed(0))

    @pytest.mark.parametrize("axes", [2, 3])
    def test_compares_folds_where_there_are_several(self, make_network: MakeNetwork, make_loaded: MakeLoaded, axes: int) -> None:
        networks = [make_network(axes, seed=seed) for seed in (0, 1, 2)]
        # The model of all loads each one's weights into the first, so it comes last.
        alone = [predict_case(make_loaded(network, mirror=True), self.channels(), self.PROPERTIES).logits.argmax(axis=0)
                 for network in networks]
        made = predict_case(make_loaded(*networks, mirror=True), self.channels(), self.PROPERTIES)
        assert made.disagreement == pytest.approx(tallied(alone).value, abs=1e-6)

    def test_compares_copies_where_there_is_one(self, make_network: MakeNetwork, make_loaded: MakeLoaded) -> None:
        model = make_loaded(make_network(), mirror=True)
        made = predict_case(model, self.channels(), self.PROPERTIES)
        assert 0 < made.disagreement < 1
        assert segment_fused(model, made.fused, self.PROPERTIES["spacing"]).disagreement == made.disagreement

    def test_is_none_where_there_are_neither(self, make_network: MakeNetwork, make_loaded: MakeLoaded) -> None:
        assert predict_case(make_loaded(make_network()), self.channels(), self.PROPERTIES).disagreement is None
        unlabelled = predict_case(make_loaded(make_network(), labels=False, mirror=True), self.channels(), self.PROPERTIES)
        assert unlabelled.disagreement is None

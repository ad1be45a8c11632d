"""Disagreement from counts of votes, against Dice of every pair; and as the network's folds and mirrored copies have it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunetv2.inference.sliding_window_prediction import compute_gaussian

from fuse4seg.evaluation.overlap import confusion, dice
from fuse4seg.inference.disagreement import Disagreement, votes_of
from fuse4seg.inference.model import Model
from fuse4seg.inference.predict_case import predict_case, segment_fused
from fuse4seg.inference.sliding_window import mirrored_copies, segment_windows
from fuse4seg.networks.fuse_then_segment import FuseThenSegment

MakeNetwork = Callable[..., FuseThenSegment]
MakeLoaded = Callable[..., Model]


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

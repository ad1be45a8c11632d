"""Presence in batches: what is drawn of it, what is left of a case, and that nothing else is told to the network."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fuse4seg.datasets.presence import PRESENT
from fuse4seg.training.presence import (
    NotingDataset,
    draw_present,
    network_told,
    sampling_probabilities,
    what_is_left,
    without_absent,
)


class TestDrawPresent:
    @settings(max_examples=50, deadline=None)
    @given(seed=st.integers(0, 2**32), samples=st.integers(1, 9), modalities=st.integers(1, 5), dropout=st.floats(0, 0.999))
    def test_leaves_every_sample_a_modality(self, seed: int, samples: int, modalities: int, dropout: float) -> None:
        present = draw_present(np.random.default_rng(seed), samples, modalities=modalities, dropout=dropout)
        assert present.shape == (samples, modalities)
        assert present.dtype == torch.bool
        assert present.any(dim=1).all()

    @pytest.mark.parametrize("modalities", [2, 4])
    @pytest.mark.parametrize("dropout", [0.1, 0.25, 0.5, 0.9])
    def test_leaves_each_out_as_often_as_asked_for(self, modalities: int, dropout: float) -> None:
        """But for the one that stays where all would go; each of them is that one equally often."""
        present = draw_present(np.random.default_rng(0), 20_000, modalities=modalities, dropout=dropout)
        expected = 1 - dropout + dropout**modalities / modalities
        np.testing.assert_allclose(present.double().mean(dim=0), expected, atol=4 * 0.5 / 20_000**0.5)

    def test_leaves_each_out_by_itself(self) -> None:
        present = draw_present(np.random.default_rng(0), 20_000, modalities=4, dropout=0.3).double()
        without_last_resort = np.corrcoef(present.T.numpy())[np.triu_indices(4, 1)]
        assert np.abs(without_last_resort).max() < 0.03

    def test_leaves_nothing_out_at_rate_0(self) -> None:
        assert draw_present(np.random.default_rng(0), 50, modalities=3, dropout=0.0).all()


class TestSamplingProbabilities:
    @staticmethod
    def of(*cases: tuple[bool, ...]) -> np.ndarray | None:
        names = [str(index) for index in range(len(cases))]
        loaded = {name: (None, None, None, {PRESENT: list(case)}) for name, case in zip(names, cases, strict=True)}
        return sampling_probabilities(SimpleNamespace(identifiers=names, load_case=loaded.get), 2)

    def test_few_complete_cases_are_half_of_what_is_drawn(self) -> None:
        np.testing.assert_allclose(self.of((True, True), (True, False), (False, True), (True, False)), [1 / 2, *[1 / 6] * 3])

    def test_many_complete_cases_are_drawn_as_often_as_any(self) -> None:
        assert self.of((True, True), (False, True)) is self.of((True, True), (True, True), (False, True)) is None

    @pytest.mark.parametrize("case", [(True, True), (True, False)])
    def test_all_alike_are_drawn_alike(self, case: tuple[bool, ...]) -> None:
        assert self.of(case, case, case) is None


class TestWhatIsLeft:
    @settings(max_examples=50, deadline=None)
    @given(seed=st.integers(0, 2**32), samples=st.integers(1, 9), modalities=st.integers(1, 5), rate=st.floats(0, 1))
    def test_is_of_what_is_there_and_never_nothing(self, seed: int, samples: int, modalities: int, rate: float) -> None:
        random = np.random.default_rng(seed)
        there, kept = (draw_present(random, samples, modalities=modalities, dropout=min(rate, 0.9)) for _ in range(2))
        left = what_is_left(there, kept, torch.from_numpy(random.random((samples, modalities))))
        assert left.any(dim=1).all()
        assert not (left & ~there).any()
        both = (there & kept).any(dim=1)
        assert torch.equal(left[both], (there & kept)[both])
        assert (left[~both].sum(dim=1) == 1).all()

    def test_is_what_is_kept_of_a_complete_case(self) -> None:
        kept = draw_present(np.random.default_rng(0), 50, modalities=3, dropout=0.6)
        assert torch.equal(what_is_left(torch.ones(50, 3, dtype=torch.bool), kept, torch.zeros(50, 3)), kept)

    def test_is_any_of_what_is_there_equally_often_where_none_of_it_is_kept(self) -> None:
        there, kept = (torch.tensor([row]).expand(20_000, -1) for row in ([True, True, False, True], [False, False, True, False]))
        left = what_is_left(there, kept, torch.from_numpy(np.random.default_rng(0).random((20_000, 4))))
        np.testing.assert_allclose(left.double().mean(dim=0), [1 / 3, 1 / 3, 0, 1 / 3], atol=0.015)


def test_without_absent_leaves_what_is_there_and_a_cascade_s_channels() -> None:
    channels = torch.rand(2, 4, 3, 3, generator=torch.Generator().manual_seed(0)) + 1
    found = without_absent(channels, torch.tensor([[True, False, True], [True, True, True]]))
    assert not found[0, 1].any()
    found[0, 1] = channels[0, 1]
    assert torch.equal(found, channels)


def test_noting_dataset_tells_of_the_case_that_was_loaded_last() -> None:
    cases: dict[str, Any] = {"a": ("voxels of a", None, None, {"present": [False, True]}), "b": ("voxels of b", None, None, {})}
    dataset = NotingDataset(SimpleNamespace(load_case=cases.get), 2)
    assert [(dataset.load_case(name)[0], dataset.present) for name in "ab"] == [("voxels of a", (False, True)),
                                                                               ("voxels of b", (True, True))]


class TestNetworkTold:
    @pytest.mark.parametrize("present", [None, torch.tensor([[True, False]])])
    def test_tells_the_network_within_it_alone(self, present: torch.Tensor | None) -> None:
        heard: list[Any] = []

        def network(channels: str, *, present: torch.Tensor | None = None) -> None:
            heard.append((channels, present))

        trainer = SimpleNamespace(network=network, device=torch.device("cpu"))
        with network_told(trainer, present):
            trainer.network("within")
        trainer.network("after")
        assert [channels for channels, _ in heard] == ["within", "after"]
        assert torch.equal(heard[0][1], present) if present is not None else heard[0][1] is None
        assert heard[1][1] is None

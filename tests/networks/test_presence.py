"""Presence: means and maxima over what is there, and masks that are refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fuse4seg.networks.presence import (
    checked_presence,
    fill_absent,
    maximum_of_present,
    mean_of_present,
    reference_apart,
)

#: One row per case, one modality at least in each.
masks = st.integers(1, 4).flatmap(lambda modalities: st.lists(
    st.lists(st.booleans(), min_size=modalities, max_size=modalities).filter(any), min_size=1, max_size=3))


class TestReductions:
    @settings(max_examples=50, deadline=None)
    @given(rows=masks, axes=st.integers(0, 3), seed=st.integers(0, 99))
    def test_are_those_of_the_modalities_that_are_there(self, rows: list[list[bool]], axes: int, seed: int) -> None:
        present = torch.tensor(rows)
        features = torch.randn(*present.shape, *[3] * axes, generator=torch.Generator().manual_seed(seed))
        spoilt = fill_absent(features, present, value=torch.nan)
        for case, there in enumerate(present):
            torch.testing.assert_close(mean_of_present(spoilt, present)[case], features[case, there].mean(dim=0))
            assert torch.equal(maximum_of_present(spoilt, present)[case], features[case, there].amax(dim=0))

    @pytest.mark.parametrize("modalities", range(1, 8))
    def test_of_a_complete_case_do_not_depend_on_its_neighbour(self, modalities: int) -> None:
        features, present = torch.randn(2, modalities, 5, 4), torch.ones(2, modalities, dtype=torch.bool)
        present[1, 1:] = False
        for reduce in (mean_of_present, maximum_of_present):
            assert torch.equal(reduce(features, present)[0], reduce(features, None)[0])


class TestCheckedPresence:
    def test_is_none_where_nothing_is_absent(self) -> None:
        assert checked_presence(None, torch.zeros(2, 3, 4)) is None
        assert checked_presence(torch.ones(2, 3, dtype=torch.bool), torch.zeros(2, 3, 4)) is None

    def test_is_what_was_given_otherwise(self) -> None:
        present = torch.tensor([[True, False], [True, True]])
        assert torch.equal(checked_presence(present, torch.zeros(2, 2, 4)), present)

    @pytest.mark.parametrize("present", [torch.ones(2, 2), torch.ones(2, 3, dtype=torch.bool), torch.ones(2, dtype=torch.bool)])
    def test_refuses_another_type_or_shape(self, present: torch.Tensor) -> None:
        with pytest.raises(ValueError, match=r"present must be bool of shape \(2, 2\), got torch"):
            checked_presence(present, torch.zeros(2, 2, 4))

    def test_refuses_a_case_without_any_modality(self) -> None:
        with pytest.raises(ValueError, match="at least one modality"):
            checked_presence(torch.tensor([[True, True], [False, False]]), torch.zeros(2, 2, 4))


class TestReferenceApart:
    @pytest.mark.parametrize(("reference", "others"), [(0, [1, 2]), (1, [0, 2]), (2, [0, 1])])
    def test_keeps_the_others_in_their_order(self, reference: int, others: list[int]) -> None:
        values = torch.rand(2, 3, 4, 5)
        apart = reference_apart(values, reference)
        assert torch.equal(apart[0], values[:, [reference]])
        assert torch.equal(apart[1], values[:, others])

"""Means over what is present."""

from __future__ import annotations

import torch

from fuse4seg.losses.presence import mean_of_present

VALUES = torch.tensor([[1.0, 2.0], [4.0, 9.0]])


class TestMeanOfPresent:
    def test_is_the_mean_of_all_by_default(self) -> None:
        assert mean_of_present(VALUES) == 4

    def test_passes_over_what_is_absent(self) -> None:
        assert mean_of_present(VALUES, torch.tensor([[True, False], [True, False]])) == 2.5

    def test_is_zero_where_nothing_is_present(self) -> None:
        assert mean_of_present(VALUES, torch.zeros(2, 2, dtype=torch.bool)) == 0

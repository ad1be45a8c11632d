"""The code of places: the same in maps of all sizes, and a measure of distance."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fuse4seg.networks.position import position_code


class TestPositionCode:
    @pytest.mark.parametrize(("size", "channels"), [((7, 5), 16), ((4, 3, 5), 20)])
    def test_tells_all_places_apart(self, size: tuple[int, ...], channels: int) -> None:
        codes = position_code(size, channels).flatten(1).T
        distances = torch.cdist(codes, codes) + torch.eye(len(codes))
        assert float(distances.min()) > 0.1

    @given(st.lists(st.integers(1, 6), min_size=2, max_size=3), st.integers(6, 40))
    def test_does_not_depend_on_the_size_of_the_map(self, size: list[int], channels: int) -> None:
        larger = position_code([extent + 3 for extent in size], channels)
        assert torch.equal(position_code(size, channels), larger[(slice(None), *(slice(extent) for extent in size))])

    @given(st.integers(0, 8), st.integers(0, 8), st.integers(0, 8), st.integers(0, 8))
    def test_products_depend_on_the_distance_alone(self, first: int, second: int, third: int, fourth: int) -> None:
        code = position_code((17, 17), 16)

        def product(place: tuple[int, int], other: tuple[int, int]) -> float:
            return float(code[:, place[0], place[1]] @ code[:, other[0], other[1]])

        # 4 waves per axis: the sum of cos(rate * distance) over both axes' waves.
        waves = torch.tensor([1.0, 0.1, 0.01, 0.001])
        by_hand = float((waves * (first - third)).cos().sum() + (waves * (second - fourth)).cos().sum())
        assert product((first, second), (third, fourth)) == pytest.approx(by_hand, abs=1e-4)
        assert product((first + 8, second), (third + 8, fourth)) == pytest.approx(by_hand, abs=1e-4)

    def test_leaves_channels_over_at_zero(self) -> None:
        code = position_code((3, 3, 3), 8)
        assert (code[6:] == 0).all()
        assert (code[:6].flatten(1).abs().sum(dim=1) > 0).all()

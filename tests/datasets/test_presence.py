"""Presence: absent channels are zeros in arrays, and are told by the case's properties alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuse4seg.datasets.presence import presence_of, with_absent


class TestWithAbsent:
    @given(present=st.lists(st.booleans(), min_size=1, max_size=6).filter(any))
    def test_leaves_what_is_there_in_its_place_and_nothing_beside_it(self, present: list[bool]) -> None:
        voxels = 1 + np.random.default_rng(0).random((sum(present), 2, 3, 4), np.float32)
        every = with_absent(voxels, present)
        assert every.shape == (len(present), 2, 3, 4)
        assert every.dtype == np.float32
        np.testing.assert_array_equal(every[np.array(present)], voxels)
        assert not every[~np.array(present)].any()

    def test_copies_nothing_where_nothing_is_absent(self) -> None:
        voxels = np.ones((2, 1, 1, 1))
        assert with_absent(voxels, (True, True)) is voxels


class TestPresenceOf:
    @pytest.mark.parametrize(("properties", "present"), [({"spacing": [1, 1, 1]}, (True, True, True)),
                                                         ({"present": [False, True, True]}, (False, True, True))])
    def test_is_what_the_properties_say_and_all_where_they_say_nothing(self, properties: dict, present: tuple[bool, ...]) -> None:
        assert presence_of(properties, 3) == present

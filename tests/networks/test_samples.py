"""Some samples of a batch, out of whatever holds tensors."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch

from fuse4seg.networks.samples import samples_of


class Pair(NamedTuple):
    first: Any
    second: Any


@pytest.mark.parametrize("chosen", [slice(1, None, 2), torch.tensor([False, True, False, True])])
def test_are_taken_from_every_tensor_whatever_holds_it(chosen: slice | torch.Tensor) -> None:
    numbers, wanted = torch.arange(4), [1, 3]
    found = samples_of({"a": [numbers, None], "b": (Pair(numbers, "name"),)}, chosen)
    assert found["a"][0].tolist() == wanted
    assert found["a"][1] is None
    assert isinstance(found["b"], tuple)
    assert found["b"][0].first.tolist() == wanted
    assert found["b"][0].second == "name"
    assert isinstance(found["b"][0], Pair)

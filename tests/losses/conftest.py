"""Images that all loss tests share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch


@pytest.fixture(scope="session")
def random_images() -> Callable[..., torch.Tensor]:
    """Function of a shape and a seed that gives uniform noise in [0, 1]."""

    def make(*shape: int, seed: int = 0) -> torch.Tensor:
        return torch.rand(shape, generator=torch.Generator().manual_seed(seed))

    return make

"""A tiny batch for steps of a tiny model."""

from __future__ import annotations

import pytest
import torch
from torch import nn


@pytest.fixture(autouse=True)
def same_numbers_in_every_run() -> None:
    """Whatever a test draws without a generator of its own."""
    torch.manual_seed(0)


@pytest.fixture
def batch() -> torch.Tensor:
    """Four cases of two blurred, normalised channels, shape (4, 2, 16, 16)."""
    noise = torch.randn(4, 2, 20, 20, generator=torch.Generator().manual_seed(0))
    return 3 * nn.functional.avg_pool2d(noise, 5, stride=1)


@pytest.fixture
def targets(batch: torch.Tensor) -> torch.Tensor:
    """Foreground where both channels are bright, which neither of them says alone, shape (4, 16, 16)."""
    return (batch > 0).all(dim=1).long()

"""Interruptions that the training tests share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import torch

from fuse4seg.training.epoch import Epoch


@pytest.fixture(autouse=True)
def same_numbers_in_every_run() -> None:
    """Whatever a test draws without a generator of its own."""
    torch.manual_seed(0)


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., AbstractContextManager[None]]:
    """Within it, Ctrl-C is pressed at the beginning of an epoch of a stage."""
    @contextmanager
    def at(stage: str, *, epoch: int) -> Iterator[None]:
        undisturbed = Epoch.run

        def disturbed(self: Epoch, *arguments: Any, **options: Any) -> None:
            if (self.stage, self.number) == (stage, epoch):
                raise KeyboardInterrupt
            undisturbed(self, *arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(Epoch, "run", disturbed)
            yield

    return at

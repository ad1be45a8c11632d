"""Processes that cannot share a training are told so before they are started."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuse4seg.errors import OptionError, PlansNotFoundError
from fuse4seg.training.run import Training
from fuse4seg.training.shares import require_ranks


@pytest.fixture(autouse=True)
def roots(planned_phantom: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(planned_phantom / name))


def test_go_by_the_plans_batch_and_the_training_s_own_hypergradient() -> None:
    """Of four samples, two processes get halves of two; four get one each, which has no halves."""
    training = Training("990", "2d", 0)
    require_ranks(training, 2)
    with pytest.raises(OptionError, match="batch of 4 cannot be shared by 4"):
        require_ranks(training, 4)
    require_ranks(Training("990", "2d", 0, changes=("bilevel.hypergradient=joint",)), 4)


def test_of_plans_that_are_not_there_are_refused_as_the_training_is() -> None:
    with pytest.raises(PlansNotFoundError):
        require_ranks(Training("990", "2d", 0, "Other"), 2)

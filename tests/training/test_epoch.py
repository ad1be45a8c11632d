"""An epoch: only the iterations that are missing, each reported, and stopped by numbers that are none."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tqdm import tqdm

from fuse4seg.model_errors import NonFiniteLossError
from fuse4seg.training.epoch import Epoch, mean_of
from fuse4seg.training.limits import Deadline
from fuse4seg.training.saving import MidEpoch, StopRequest


def batches(start: int = 0) -> Iterator[dict[str, Any]]:
    """Numbered ones, each with a case of its number."""
    number = start
    while True:
        yield {"number": number, "keys": [f"case{number}"]}
        number += 1


@pytest.fixture
def mid_epoch() -> MidEpoch:
    """Never saves."""
    return MidEpoch(Path, minutes=math.inf, stop=StopRequest(), deadline=Deadline())


def run(epoch: Epoch, mid_epoch: MidEpoch, losses: dict[int, float], *, start: int = 0, ratio: float = 1.0) -> None:
    epoch.run(batches(start), lambda batch: {"loss": losses.get(batch["number"], 0.5), "ratio": ratio}, iterations=4, epochs=9,
              shown="loss", mid_epoch=mid_epoch, bar=tqdm(disable=True))


class TestEpoch:
    def test_does_the_iterations_that_are_missing(self, mid_epoch: MidEpoch) -> None:
        epoch = Epoch("training", 3, [{"loss": 7.0, "ratio": 1.0}])
        run(epoch, mid_epoch, {1: 1.0, 2: 2.0, 3: 3.0}, start=1)
        assert [report["loss"] for report in epoch.reports] == [7, 1, 2, 3]
        run(epoch, mid_epoch, {}, start=4)
        assert len(epoch.reports) == 4

    def test_begins_the_next_one_with_no_reports(self, mid_epoch: MidEpoch) -> None:
        epoch = Epoch("training", 3, [])
        run(epoch, mid_epoch, {})
        epoch.advance()
        assert (epoch.number, epoch.reports) == (4, [])

    @pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
    def test_ends_with_a_loss_that_is_no_number_and_names_the_cases(self, mid_epoch: MidEpoch, loss: float) -> None:
        epoch = Epoch("training", 3, [])
        with pytest.raises(NonFiniteLossError, match="in training, epoch 3, with the cases case2. Check"):
            run(epoch, mid_epoch, {2: loss})
        assert len(epoch.reports) == 2

    def test_goes_on_whatever_the_ratio_is(self, mid_epoch: MidEpoch) -> None:
        epoch = Epoch("training", 3, [])
        run(epoch, mid_epoch, {}, ratio=math.nan)
        assert len(epoch.reports) == 4


class TestMeanOf:
    def test_averages_every_entry(self) -> None:
        assert mean_of([{"a": 1.0, "b": 4.0}, {"a": 3.0, "b": 0.0}]) == {"a": 2.0, "b": 2.0}

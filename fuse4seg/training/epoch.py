"""The iterations of an epoch, of either stage, from where it was left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from tqdm import tqdm

from fuse4seg.model_errors import NonFiniteLossError
from fuse4seg.ranks import of_each
from fuse4seg.training.data import Batch
from fuse4seg.training.saving import MidEpoch


class Epoch:
    """One epoch, as far as it is done.

    Args:
        stage: What messages call its stage.
        number: From 0.
        reports: Of the iterations that are done already, which grow with every further one.
    """

    def __init__(self, stage: str, number: int, reports: list[dict[str, float]]) -> None:
        self.stage, self.number, self.reports = stage, number, reports
        self.cases: list[str] = []

    def run(self, batches: Iterator[Batch], step: Callable[[Batch], dict[str, float]], *, iterations: int, epochs: int,
            shown: str, mid_epoch: MidEpoch, bar: tqdm[Any]) -> None:
        """Do the iterations that are missing.

        Args:
            batches: The next is the first one that was not trained on.
            step: Trains on a batch and reports losses.
            iterations: Of a whole epoch.
            epochs: Of the stage.
            shown: The loss that the bar shows.
            mid_epoch: Is told of every iteration.
            bar: Over the iterations of all epochs of the stage.

        Raises:
            NonFiniteLossError: A loss is NaN or infinite.
            TrainingStoppedError: The training was asked to stop.
            WorkerDiedError: A background process was killed.
        """
        bar.total = epochs * iterations
        bar.set_description(f"{self.stage} {self.number + 1}/{epochs}", refresh=False)
        for _ in range(len(self.reports), iterations):
            batch = mid_epoch.draw(batches)
            self.cases = list(map(str, batch["keys"]))
            report = step(batch)
            # The ratio may be anything; it does not stop a training.
            if not np.isfinite([value for name, value in report.items() if name != "ratio"]).all():
                raise self.non_finite()
            self.reports.append(report)
            bar.set_postfix({"loss": f"{report[shown]:.4f}"}, refresh=False)
            bar.update()
            mid_epoch.after_iteration()

    def advance(self) -> None:
        """Begin the next one."""
        self.number += 1
        self.reports.clear()

    def non_finite(self) -> NonFiniteLossError:
        """What to raise where the last batch made numbers that are none."""
        return NonFiniteLossError(self.stage, self.number, [case for cases in of_each(self.cases) for case in cases])


def mean_of(reports: list[dict[str, float]]) -> dict[str, float]:
    """Mean of each entry over an epoch's reports, which all have the same entries."""
    return {name: sum(report[name] for report in reports) / len(reports) for name in reports[0]}

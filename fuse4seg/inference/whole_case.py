"""One case from files to files, in a process that holds the model: what a farm's workers do when they predict."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch

from fuse4seg.datasets.raw import Case
from fuse4seg.errors import CaseTooLargeError
from fuse4seg.farm.farm import Farm
from fuse4seg.inference.export_case import Export, Exported, Predicted, export_case
from fuse4seg.inference.model import Model, choose_precision

if TYPE_CHECKING:
    from fuse4seg.inference.predict_folder import Prepared


@dataclass(frozen=True)
class WholeCase:
    """The three steps of a case.

    Attributes:
        prepare: Reads it.
        predict: What the network makes of it.
        export: Where and how to write; the folder is there.
    """

    prepare: Callable[[Case], Prepared]
    predict: Callable[[Model, Prepared], Predicted]
    export: Export

    def __call__(self, model: Model, case: Case) -> tuple[Prepared, Exported]:
        """What is to be recorded of a case, without its channels, and what was written.

        Raises:
            CaseTooLargeError: It does not fit into the memory.
            Fuse4SegError: Whatever is wrong with it.
        """
        prepared = self.prepare(case)
        begin = time.perf_counter()
        try:
            predicted = self.predict(model, prepared)
        except (MemoryError, torch.OutOfMemoryError) as error:
            raise CaseTooLargeError(case.name) from error
        seconds = prepared.seconds + time.perf_counter() - begin
        return replace(prepared, channels=None, seconds=seconds), export_case(predicted, self.export)


def load_for(farm: Farm, load: Callable[..., Model], *, precision: str) -> Model:
    """A model as it is on a farm's workers; here it only tells of itself, and does not compute.

    Args:
        farm: Where it will predict.
        load: :func:`~fuse4seg.inference.model.load_model` with all but device and precision.
        precision: As there.

    Raises:
        OptionError: The workers do not have the precision, or not all the same by "auto".
    """
    device = torch.device(farm.device)
    agreed = farm.agreed(choose_precision, precision, device, flag="--precision")
    return replace(load(device=torch.device("cpu"), precision="float32"), device=device, precision=agreed)


def load_again(model: Model) -> Callable[[], Model]:
    """Loads a model in another process, for the device and the precision that it has here."""
    return partial(model.again, device=model.device, precision=str(model.precision).removeprefix("torch."))

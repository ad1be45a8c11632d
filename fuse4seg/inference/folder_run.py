"""The cases of a folder on their way: prepared, put through the network and written, and what becomes of each of them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from fuse4seg.case_faults import fault_of
from fuse4seg.datasets.alignment import reference_channel, suspicion
from fuse4seg.datasets.dataset_json import channel_names, may_lack_channels
from fuse4seg.datasets.raw import Case
from fuse4seg.errors import CaseTooLargeError, FaultyCasesError, Fuse4SegError, UnwritableFolderError
from fuse4seg.farm.farm import Farm, Job, Outcome
from fuse4seg.files import make_writable_folder, remove_stale, write_json
from fuse4seg.inference.export_case import ALIGNMENT, Export, Exported, Predicted, export_case
from fuse4seg.inference.model import Model, load_again
from fuse4seg.inference.preprocess_case import Prepared
from fuse4seg.inference.run_record import RunRecord
from fuse4seg.inference.workers import Workers
from fuse4seg.own_outputs import OwnOutputs
from fuse4seg.progress import progress

log = logging.getLogger(__name__)

#: Beside the output, where a case lacked modalities: their names by case.
MISSING = "missing_modalities.json"


@dataclass(frozen=True)
class WholeCase:
    """The three steps of a case, from files to files, in a process that holds the model: what a farm's workers do.

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


@dataclass
class FolderRun:
    """What the cases of a folder have in common, and what becomes of them.

    Attributes:
        model: From ``load_model``.
        export: Where and how to write.
        own: What may be written.
        record: Is told of every case; None to keep none.
        expected: Cases of all parts that are not known to be faulty.
        cases: How many there are to predict.
        doing: For the progress bar.
        faults: What kept cases from being predicted, by their names.
    """

    model: Model
    export: Export
    own: OwnOutputs
    record: RunRecord | None
    expected: list[Case]
    cases: int
    doing: str = "predicting"
    faults: dict[str, Fuse4SegError] = field(default_factory=dict)
    _begun: bool = False
    _bar: tqdm | None = None
    _underway: dict[str, Prepared] = field(default_factory=dict)

    def through(self, cases: Sequence[Case], prepare: Callable[[Case], Prepared], predict: Callable[[Prepared], Predicted], *,
                processes: tuple[int, int] = (0, 0)) -> None:
        """Read cases, predict and write them, all three at the same time where there are processes for it."""
        preparing, exporting = processes
        with Workers("preparing", preparing, flag="-npp") as preparers, Workers("exporting", exporting, flag="-nps") as exporters:
            prepared = preparers.map(prepare, cases, name=lambda case: case.name)
            exported = exporters.map(partial(export_case, export=self.export), self._predicted(prepared, predict),
                                     name=lambda predicted: predicted.case.name)
            with closing(self):
                for outcome in exported:
                    self._note(outcome)
        self._settle()

    def over(self, farm: Farm, cases: Sequence[Case], prepare: Callable[[Case], Prepared],
             predict: Callable[[Model, Prepared], Predicted]) -> None:
        """Have workers read, predict and write cases; each holds the model. They end in any order."""
        if cases:
            self.begin_output()
        job = Job(load_again(self.model), WholeCase(prepare, predict, self.export), self.doing, on_gpu=farm.device == "cuda")
        with closing(self), closing(farm.outcomes(job, cases, name=lambda case: case.name)) as outcomes:
            for case, result, failure in outcomes:
                if failure is None:
                    self._underway[case], result = result
                self._note(Outcome(case, result, failure))
        self._settle()

    def begin_output(self) -> None:
        """Make the output folder, once it is known that there is something to write."""
        if self._begun:
            return
        self._begun = True
        output = make_writable_folder(self.export.output)
        remove_stale(output)
        self.own.note()
        _report_missing(self.model, self._missing(), output)
        self.model.description.write(output)
        if not self.model.description.segments:
            log.info("this model was trained without labels: it has no segmentation to give, and writes fused images alone")
        if self.export.wanted.attention and not self.model.network.fusion.attends:
            log.warning("this model has no cross-attention: there are no attention maps to write. For them, plan with "
                        "--set leader.cross_attention=true and train anew")
        # Not earlier: an error that says why there is nothing to predict stands alone.
        self._bar = progress((), self.doing, unit="case", total=self.cases)

    def close(self) -> None:
        """End the progress bar."""
        if self._bar is not None:
            self._bar.close()

    def _predicted(self, prepared: Iterator[Outcome], predict: Callable[[Prepared], Predicted]) -> Iterator[Predicted]:
        """What the network makes of prepared cases, of which none is held here when the next is taken: they are large."""
        for case, result, failure in prepared:
            if failure is not None:
                self.faults[case] = failure
                continue
            self.begin_output()
            given = [result]
            del result
            found = self._try_predict(case, given, predict)
            if found:
                yield found.pop()

    def _try_predict(self, case: str, given: list[Prepared], predict: Callable[[Prepared], Predicted]) -> list[Predicted]:
        begin = time.perf_counter()
        try:
            found = [predict(given[0])]
        except (MemoryError, torch.OutOfMemoryError):
            self.faults[case] = CaseTooLargeError(case)
            return []
        except Exception as error:  # noqa: BLE001 (what is no fault of the case is raised again)
            self.faults[case] = fault_of(error, case)
            return []
        seconds = given[0].seconds + time.perf_counter() - begin
        self._underway[case] = replace(given.pop(), channels=None, seconds=seconds)
        return found

    def _note(self, outcome: Outcome) -> None:
        """Tell the record what became of a case; raises what is wrong with the place that it is written to."""
        if isinstance(outcome.failure, UnwritableFolderError):
            raise outcome.failure
        prepared = self._underway.pop(outcome.case, None)
        self._bar.update()
        if outcome.failure is not None:
            self.faults[outcome.case] = outcome.failure
            return
        exported: Exported = outcome.result
        log.info("%s: %s", outcome.case, ", ".join(f"{name} {count} voxels" for name, count in exported.voxels.items()))
        names = channel_names(self.export.description.dataset_json)
        if words := suspicion(prepared.alignment, names[reference_channel(self.export.description.dataset_json)]):
            log.warning("%s: %s: look at %s, and repair it with f4s_register if so", outcome.case, words, self.export.output /
                        ALIGNMENT)
        if self.record is not None:
            absent = _absent(prepared.case, self.model)
            self.record.note_failed(self.faults)
            self.record.note_done(outcome.case, prepared.sources, exported.files, output=self.export.output,
                                  seconds=prepared.seconds + exported.seconds, absent=absent, facts={
                                      **exported.facts, "alignment": {name: one.to_plain() for name, one
                                                                      in prepared.alignment.items()}})

    def _settle(self) -> None:
        """Write down what kept cases from being predicted, if anything did and anything else was written."""
        if not self.faults or not self._begun:
            return
        _write_missing(self._missing(), self.export.output)
        if self.record is not None:
            self.record.note_failed(self.faults)
            self.record.write()

    def raise_faults(self) -> None:
        """Raise what kept cases from being predicted, if anything did."""
        if not self._begun and len(self.faults) == 1:
            raise next(iter(self.faults.values()))
        if self.faults:
            raise FaultyCasesError(map(str, self.faults.values()))

    def _missing(self) -> dict[str, list[str]]:
        """Names of what cases lack, by case."""
        absent = {case.name: _absent(case, self.model) for case in self.expected if case.name not in self.faults}
        return {case: names for case, names in absent.items() if names}


def _absent(case: Case, model: Model) -> list[str]:
    return [name for name, there in zip(channel_names(model.description.dataset_json), case.found, strict=True) if not there]


def _report_missing(model: Model, missing: Mapping[str, Sequence[str]], output: Path) -> None:
    """Say in the log and beside the output which cases lack what."""
    names = channel_names(model.description.dataset_json)
    for case, absent in missing.items():
        log.warning("%s lacks %s and is predicted from %s", case, ", ".join(absent),
                    ", ".join(name for name in names if name not in absent))
    if missing and not model.modality_dropout and not may_lack_channels(model.description.dataset_json):
        log.warning("this model never saw a case without a modality: expect worse results than from one trained with "
                    "f4s_train --set training.modality_dropout=0.1")
    _write_missing(missing, output)


def _write_missing(missing: Mapping[str, Sequence[str]], output: Path) -> None:
    if missing:
        write_json(missing, output / MISSING)
    else:
        (output / MISSING).unlink(missing_ok=True)  # an earlier run's

"""A folder of patients in; segmentations, fused images, attention maps and panels out."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from fuse4seg.case_faults import fault_of
from fuse4seg.datasets.alignment import reference_channel, suspicion
from fuse4seg.datasets.dataset_json import channel_names, may_lack_channels
from fuse4seg.datasets.raw import PREDICT_ANYWAY, Case, cases_of_files, list_cases, require_channels
from fuse4seg.errors import CaseTooLargeError, FaultyCasesError, Fuse4SegError, OptionError, UnwritableFolderError
from fuse4seg.evaluation.postprocessing import Rule
from fuse4seg.farm.farm import Farm, Job, Outcome
from fuse4seg.files import make_writable_folder, remove_stale, write_json
from fuse4seg.inference.export_case import ALIGNMENT, SEGMENTATIONS, Export, Exported, Predicted, Wanted, export_case, outputs_of
from fuse4seg.inference.model import DESCRIPTIONS, Model, load_again
from fuse4seg.inference.panel import measure_legend
from fuse4seg.inference.predict_case import predict_case
from fuse4seg.inference.preprocess_case import (
    PREVIOUS_STAGE,
    Prepared,
    prepare_case,
    require_segmentation,
    sources_of,
)
from fuse4seg.inference.run_record import RunRecord, record_name
from fuse4seg.inference.workers import Workers, fitting_processes
from fuse4seg.own_outputs import OwnOutputs, claim_outputs, require_apart
from fuse4seg.progress import progress

log = logging.getLogger(__name__)

#: Beside the output, where a case lacked modalities: their names by case.
MISSING = "missing_modalities.json"


@dataclass(frozen=True)
class FirstStage:
    """A cascade's first stage, which is predicted before the second.

    Attributes:
        model: From ``load_model``.
        folds: Names of its sets of weights.
        record: Of its cases.
    """

    model: Model
    folds: tuple[int | str, ...]
    record: RunRecord | None = None


def predict_folder(model: Model, images: Path | Sequence[Path], output: Path, *, folds: tuple[int | str, ...],
                   wanted: Wanted = SEGMENTATIONS, allow_missing: bool = False, record: RunRecord | None = None,
                   part: tuple[int, int] = (0, 1), processes: tuple[int | None, int | None] = (0, 0),
                   previous: FirstStage | Path | None = None, rules: tuple[Rule, ...] = (), farm: Farm | None = None,
                   overwrite: bool = False) -> list[Path]:
    """Predict every case of a folder; faulty ones are left out.

    Args:
        model: From ``load_model``.
        images: Folder of CASE_0000, CASE_0001, ... files, or the files.
        output: Gets CASE (labels, if the model was trained with any), fused/CASE (8 bits a channel), and what is wanted; is
            created when the first sound case is prepared.
        folds: Names of the model's sets of weights; with several, each has its fused image in fused/fold_<n>/.
        wanted: Further outputs.
        allow_missing: Also predict cases that lack modalities; the log and missing_modalities.json in ``output`` name these.
        record: Knows the cases that are done already, and is told of every further one.
        part: This part's number, from 0, and how many there are: every so manieth case is predicted.
        processes: That prepare and export cases beside the network; 0 for none, None for what cores and memory allow.
        previous: Of a cascade's second stage: the first, whose output goes to previous_stage/, or a folder of its segmentations.
        rules: Post-processing of the segmentations; a first stage's stay as the second was trained on them.
        farm: Workers that predict whole cases, in place of this process.
        overwrite: Also replace files in ``output`` that this tool did not write, and write among the input.

    Returns:
        The segmentations of this part; none from a model that was trained without labels.

    Raises:
        FolderNotFoundError, EmptyFolderError, MisnamedImageError, DuplicateCaseError, SurplusChannelError: The input.
        FaultyCasesError: Some cases could not be predicted; the others were.
        MissingModalityError, FaultyImageError, PreviousStageError, WorkerDiedError: The only case could not be predicted.
        UnwritableFolderError: The output.
        OptionError: ``output`` holds the input, a raw dataset, or files of these names that this tool did not write.
        ValueError: The model is the second stage of a cascade, and there is no ``previous``.
    """
    if model.description.previous_stage is not None and previous is None:
        raise ValueError(f"the model sees what {model.description.previous_stage} segmented: give previous")
    every = listed_cases(images, model.description.dataset_json)
    cases = every[part[0]::part[1]]
    read = {path.parent for case in every for path in case.files} | ({previous} if isinstance(previous, Path) else set())
    require_apart(output, read, overwrite=overwrite)
    run = partial(_run, every=every, cases=cases, allow_missing=allow_missing, processes=processes, farm=farm)
    claim = partial(claim_exports, [case.name for case in every], parts=part[1], overwrite=overwrite)
    export = export_of(model, output, folds, wanted, rules)
    own, faults = claim(export), {}
    if isinstance(previous, FirstStage):
        first = export_of(previous.model, output / PREVIOUS_STAGE, previous.folds)
        stage = run(previous.model, first, claim(first), record=previous.record, examine=False)
        faults, previous = stage.faults, first.output
    run(model, export, own, record=record, previous=previous, known=faults).raise_faults()
    return [output / f"{case.name}{model.description.file_ending}" for case in cases if model.description.segments]


def export_of(model: Model, output: Path, folds: Sequence[int | str], wanted: Wanted = SEGMENTATIONS,
              rules: tuple[Rule, ...] = ()) -> Export:
    """Where and how a model's cases are written; see :class:`~fuse4seg.inference.export_case.Export`."""
    return Export(model.description, output, tuple(folds), model.network.fusion.reference, wanted, rules)


def claim_exports(cases: Iterable[str], export: Export, *, parts: int = 1, overwrite: bool = False) -> OwnOutputs:
    """Everything that may be written of cases, and beside them; see :func:`~fuse4seg.own_outputs.claim_outputs`.

    Raises:
        OptionError: Two of them would be one file, as those of case c5, label a_b, and of case c5_a, label b.
    """
    beside = [*DESCRIPTIONS, MISSING, *(record_name((number, parts)) for number in range(parts))]
    wanted_for = dict.fromkeys(beside, "the run")
    for case in cases:
        for name in outputs_of(case, export):
            if (other := wanted_for.setdefault(name, f"case {case}")) != f"case {case}":
                raise OptionError("-i", f"{export.output / name} would be written for {other} and case {case}. Rename a case.")
    return claim_outputs(export.output, wanted_for, overwrite=overwrite)


def listed_cases(images: Path | Sequence[Path], dataset_json: dict[str, Any]) -> list[Case]:
    """Cases of a folder, or of files, which may lack some; raises what :func:`predict_folder` does of the input."""
    names, ending = channel_names(dataset_json), dataset_json["file_ending"]
    if isinstance(images, Path):
        return list(list_cases(images, channels=names, file_ending=ending, allow_missing=True).values())
    return list(cases_of_files(images, channels=names, file_ending=ending).values())


def _run(model: Model, export: Export, own: OwnOutputs, *, every: list[Case], cases: list[Case], allow_missing: bool,
         processes: tuple[int | None, int | None], record: RunRecord | None, previous: Path | None = None,
         known: Mapping[str, Fuse4SegError] | None = None, examine: bool = True, farm: Farm | None = None) -> FolderRun:
    """Predict the sound ones of this part's cases; ``known`` is why some of them are already known not to be.

    Whether modalities are aligned is examined once, for the last stage of a cascade.
    """
    names, output = channel_names(model.description.dataset_json), export.output
    sources = partial(sources_of, previous=previous, ending=export.description.file_ending)
    done = [case for case in cases if record and record.is_done(case.name, sources(case), output)]
    left = [case for case in cases if case not in done]
    run = FolderRun(model, export, own, record, [case for case in every if allow_missing or all(case.found)], len(left))
    required = [] if allow_missing else [partial(require_channels, channels=names, mend=PREDICT_ANYWAY)]
    required += [] if previous is None else [lambda case: require_segmentation(sources(case)[-1], case.name)]
    run.faults = {case.name: fault for case in left if (fault := (known or {}).get(case.name) or _fault(case, required))}
    todo = [case for case in left if case.name not in run.faults]
    if done:
        log.info("%d of %d cases are predicted already", len(done), len(cases))
        run.begin_output()
    prepare = partial(prepare_case, description=export.description, previous=previous, examine=examine)
    predict = partial(_predict, wanted=export.wanted)
    if farm is not None:
        run.over(farm, todo, prepare, predict)
        return run
    preparing, exporting = (fitting_processes(sources(todo[0]), cases=len(todo), on_gpu=model.device.type == "cuda")
                            if count is None and todo else count or 0 for count in processes)
    run.through(todo, prepare, partial(predict, model), processes=(preparing, exporting))
    return run


def _fault(case: Case, required: Sequence[Callable[[Case], None]]) -> Fuse4SegError | None:
    """What a case lacks of what is required, before anything is read; None where it lacks nothing."""
    try:
        for require in required:
            require(case)
    except Fuse4SegError as error:
        return error
    return None


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


def _predict(model: Model, prepared: Prepared, *, wanted: Wanted) -> Predicted:
    present = None if all(prepared.case.found) else prepared.case.found
    channels = torch.from_numpy(prepared.channels)
    made = predict_case(model, channels, prepared.properties, present=present, want_attention=wanted.attention or wanted.panels)
    legend = measure_legend(model, channels, present=present) if wanted.panels and model.colours > 1 else None
    suspect = [name for name, one in prepared.alignment.items() if one.suspect]
    return Predicted(prepared.case, prepared.properties, made, legend, suspect)


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

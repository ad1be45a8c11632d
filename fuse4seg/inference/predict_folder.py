"""A folder of patients in; segmentations, fused images, attention maps and panels out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fuse4seg.datasets.dataset_json import channel_names
from fuse4seg.datasets.raw import PREDICT_ANYWAY, Case, cases_of_files, list_cases, require_channels
from fuse4seg.errors import Fuse4SegError, OptionError
from fuse4seg.evaluation.postprocessing import Rule
from fuse4seg.farm.farm import Farm
from fuse4seg.inference.export_case import SEGMENTATIONS, Export, Predicted, Wanted, outputs_of
from fuse4seg.inference.folder_run import MISSING, FolderRun
from fuse4seg.inference.model import DESCRIPTIONS, Model
from fuse4seg.inference.panel import measure_legend
from fuse4seg.inference.predict_case import predict_case
from fuse4seg.inference.preprocess_case import PREVIOUS_STAGE, Prepared, prepare_case, require_segmentation, sources_of
from fuse4seg.inference.run_record import RunRecord, record_name
from fuse4seg.inference.workers import fitting_processes
from fuse4seg.own_outputs import OwnOutputs, claim_outputs, require_apart

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Conduct:
    """How a folder is predicted, which changes nothing of what is made of a case.

    Attributes:
        allow_missing: Also predict cases that lack modalities; the log and missing_modalities.json in the output name these.
        part: This part's number, from 0, and how many there are: every so manieth case is predicted.
        processes: That prepare and export cases beside the network; 0 for none, None for what cores and memory allow.
        farm: Workers that predict whole cases, in place of this process.
        overwrite: Also replace files in the output that this tool did not write, and write among the input.
    """

    allow_missing: bool = False
    part: tuple[int, int] = (0, 1)
    processes: tuple[int | None, int | None] = (0, 0)
    farm: Farm | None = None
    overwrite: bool = False

    def own(self, cases: Sequence[Case]) -> list[Case]:
        """Those of this part."""
        return list(cases[self.part[0]::self.part[1]])


#: All cases, complete, one after the other, in this process.
PLAIN = Conduct()


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
                   wanted: Wanted = SEGMENTATIONS, record: RunRecord | None = None, previous: FirstStage | Path | None = None,
                   rules: tuple[Rule, ...] = (), conduct: Conduct = PLAIN) -> list[Path]:
    """Predict every case of a folder; faulty ones are left out.

    Args:
        model: From ``load_model``.
        images: Folder of CASE_0000, CASE_0001, ... files, or the files.
        output: Gets CASE (labels, if the model was trained with any), fused/CASE (8 bits a channel), and what is wanted; is
            created when the first sound case is prepared.
        folds: Names of the model's sets of weights; with several, each has its fused image in fused/fold_<n>/.
        wanted: Further outputs.
        record: Knows the cases that are done already, and is told of every further one.
        previous: Of a cascade's second stage: the first, whose output goes to previous_stage/, or a folder of its segmentations.
        rules: Post-processing of the segmentations; a first stage's stay as the second was trained on them.
        conduct: How it is done.

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
    read = {path.parent for case in every for path in case.files} | ({previous} if isinstance(previous, Path) else set())
    require_apart(output, read, overwrite=conduct.overwrite)
    run, claim = partial(_run, every, conduct=conduct), partial(claim_exports, [case.name for case in every], conduct=conduct)
    export = export_of(model, output, folds, wanted, rules)
    own, faults = claim(export), {}
    if isinstance(previous, FirstStage):
        first = export_of(previous.model, output / PREVIOUS_STAGE, previous.folds)
        stage = run(previous.model, first, claim(first), record=previous.record, examine=False)
        faults, previous = stage.faults, first.output
    run(model, export, own, record=record, previous=previous, known=faults).raise_faults()
    return [output / f"{case.name}{model.description.file_ending}" for case in conduct.own(every) if model.description.segments]


def export_of(model: Model, output: Path, folds: Sequence[int | str], wanted: Wanted = SEGMENTATIONS,
              rules: tuple[Rule, ...] = ()) -> Export:
    """Where and how a model's cases are written; see :class:`~fuse4seg.inference.export_case.Export`."""
    return Export(model.description, output, tuple(folds), model.network.fusion.reference, wanted, rules)


def claim_exports(cases: Iterable[str], export: Export, *, conduct: Conduct = PLAIN) -> OwnOutputs:
    """Everything that may be written of cases, and beside them; see :func:`~fuse4seg.own_outputs.claim_outputs`.

    Raises:
        OptionError: Two of them would be one file, as those of case c5, label a_b, and of case c5_a, label b.
    """
    parts = conduct.part[1]
    beside = [*DESCRIPTIONS, MISSING, *(record_name((number, parts)) for number in range(parts))]
    wanted_for = dict.fromkeys(beside, "the run")
    for case in cases:
        for name in outputs_of(case, export):
            if (other := wanted_for.setdefault(name, f"case {case}")) != f"case {case}":
                raise OptionError("-i", f"{export.output / name} would be written for {other} and case {case}. Rename a case.")
    return claim_outputs(export.output, wanted_for, overwrite=conduct.overwrite)


def listed_cases(images: Path | Sequence[Path], dataset_json: dict[str, Any]) -> list[Case]:
    """Cases of a folder, or of files, which may lack some; raises what :func:`predict_folder` does of the input."""
    names, ending = channel_names(dataset_json), dataset_json["file_ending"]
    if isinstance(images, Path):
        return list(list_cases(images, channels=names, file_ending=ending, allow_missing=True).values())
    return list(cases_of_files(images, channels=names, file_ending=ending).values())


def _run(every: list[Case], model: Model, export: Export, own: OwnOutputs, *, conduct: Conduct, record: RunRecord | None,
         previous: Path | None = None, known: Mapping[str, Fuse4SegError] | None = None, examine: bool = True) -> FolderRun:
    """Predict the sound ones of this part's cases; ``known`` is why some of them are already known not to be.

    Whether modalities are aligned is examined once, for the last stage of a cascade.
    """
    names, output, cases = channel_names(model.description.dataset_json), export.output, conduct.own(every)
    sources = partial(sources_of, previous=previous, ending=export.description.file_ending)
    done = [case for case in cases if record and record.is_done(case.name, sources(case), output)]
    left = [case for case in cases if case not in done]
    run = FolderRun(model, export, own, record, [case for case in every if conduct.allow_missing or all(case.found)], len(left))
    required = [] if conduct.allow_missing else [partial(require_channels, channels=names, mend=PREDICT_ANYWAY)]
    required += [] if previous is None else [lambda case: require_segmentation(sources(case)[-1], case.name)]
    run.faults = {case.name: fault for case in left if (fault := (known or {}).get(case.name) or _fault(case, required))}
    todo = [case for case in left if case.name not in run.faults]
    if done:
        log.info("%d of %d cases are predicted already", len(done), len(cases))
        run.begin_output()
    prepare = partial(prepare_case, description=export.description, previous=previous, examine=examine)
    predict = partial(_predict, wanted=export.wanted)
    if conduct.farm is not None:
        run.over(conduct.farm, todo, prepare, predict)
        return run
    preparing, exporting = (fitting_processes(sources(todo[0]), cases=len(todo), on_gpu=model.device.type == "cuda")
                            if count is None and todo else count or 0 for count in conduct.processes)
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


def _predict(model: Model, prepared: Prepared, *, wanted: Wanted) -> Predicted:
    present = None if all(prepared.case.found) else prepared.case.found
    channels = torch.from_numpy(prepared.channels)
    made = predict_case(model, channels, prepared.properties, present=present, want_attention=wanted.attention or wanted.panels)
    legend = measure_legend(model, channels, present=present) if wanted.panels and model.colours > 1 else None
    suspect = [name for name, one in prepared.alignment.items() if one.suspect]
    return Predicted(prepared.case, prepared.properties, made, legend, suspect)

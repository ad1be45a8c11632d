"""What f4s_predict is given: CASE_0000 files, a BIDS dataset, or DICOM; the latter two are given back as such, too."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fuse4seg.case_faults import fault_of
from fuse4seg.datasets.bids import is_bids
from fuse4seg.datasets.dataset_json import channel_names
from fuse4seg.datasets.dicom_files import dicom_files, require_dicom
from fuse4seg.datasets.raw import holds_cases
from fuse4seg.errors import FaultyCasesError, Fuse4SegError, OptionError, UnwritableFolderError
from fuse4seg.inference.model import ModelDescription
from fuse4seg.inference.run_record import RunRecord
from fuse4seg.own_outputs import OwnOutputs, claim_outputs, require_apart
from fuse4seg.progress import progress

#: Formats that say where a volume lies.
PLACED = (".nii.gz", ".nii", ".nrrd", ".mha", ".gipl")
RULES = "--series_rules"


@dataclass(frozen=True)
class Job:
    """How an input is predicted, as far as reading and giving back need to know.

    Attributes:
        description: Of the model.
        folds: Names of the sets of weights, each of which has its fused image.
        reference: Index of the modality whose grid all get.
        output: Folder of the predictions.
        record: Of the run.
        allow_missing: Also take cases that lack modalities.
        overwrite: Also replace files in ``output`` that this tool did not write.
        rules: File of rules that tell DICOM series apart; None for the built-in ones.
        elsewhere: Whether other machines predict.
    """

    description: ModelDescription
    folds: tuple[int | str, ...]
    reference: int
    output: Path
    record: RunRecord
    allow_missing: bool = False
    overwrite: bool = False
    rules: Path | None = None
    elsewhere: bool = False

    @property
    def channels(self) -> list[str]:
        """The model's, in order."""
        return channel_names(self.description.dataset_json)


class Source(Protocol):
    """Cases that are no CASE_0000 files yet.

    Attributes:
        faults: Why some are none, by name.
    """

    faults: dict[str, Fuse4SegError]

    @property
    def cases(self) -> Iterable[str]:
        """Names of the others, in order."""

    @property
    def folders(self) -> set[Path]:
        """Where their files lie."""

    @property
    def outputs(self) -> list[str]:
        """Names of the files and folders that may be given back, relative to the output."""

    def write(self, case: str, folder: Path) -> None:
        """Put a case's CASE_0000, CASE_0001, ... into a folder."""

    def give_back(self, case: str) -> None:
        """Write what was predicted of a case in the source's own form."""

    def finish(self) -> None:
        """Write what belongs to all cases together."""


def predict_input(images: Path | Sequence[Path], predict: Callable[[Path | Sequence[Path]], object], job: Job) -> None:
    """Predict what a folder holds: CASE_0000 files as they are; BIDS or DICOM by temporary files, and give it back.

    Args:
        images: Folder, or files CASE_0000.
        predict: Predicts a folder of such files.
        job: The rest.

    Raises:
        OptionError: There are rules, and no DICOM; the model's format has no place in space; or as ``predict``.
        MissingExtraError: DICOM cannot be read here.
        FaultyCasesError: Some cases could not be predicted; the others were, and given back.
        As the source and ``predict``.
    """
    source = _source(images, job)
    if source is None:
        if job.rules is not None:
            raise OptionError(RULES, "is for folders of DICOM files. Leave it out.")
        predict(images)
        return
    if job.description.file_ending not in PLACED:
        raise OptionError("-i", f"{images} holds volumes, and the model reads files *{job.description.file_ending}. "
                                "Choose another model with -d or -c.")
    if job.elsewhere:
        raise OptionError("--scheduler", f"needs files CASE_0000 that all machines see, and {images} holds none. Convert it with "
                                         "f4s_convert_dataset, or predict without --scheduler.")
    require_apart(job.output, {images, *source.folders}, overwrite=job.overwrite)
    own = claim_outputs(job.output, source.outputs, overwrite=job.overwrite)
    with tempfile.TemporaryDirectory() as place:
        _write(source, Path(place))
        if not any(Path(place).iterdir()):
            _raise(source.faults)
        job.record.note_failed(source.faults)
        failure = _try_predict(predict, Path(place))
    _give_back(source, own, job)
    if isinstance(failure, FaultyCasesError) or source.faults:
        raise FaultyCasesError([*map(str, source.faults.values()), *_lines(failure)]) from failure
    if failure is not None:
        raise failure


def _source(images: Path | Sequence[Path], job: Job) -> Source | None:
    if not isinstance(images, Path) or not images.is_dir() or holds_cases(images, job.description.file_ending):
        return None
    if is_bids(images):
        from fuse4seg.inference.bids_input import BidsInput

        return BidsInput(images, job)
    if next(dicom_files(images), None) is None:
        return None
    require_dicom()
    from fuse4seg.inference.dicom_input import DicomInput

    return DicomInput(images, job)


def _write(source: Source, place: Path) -> None:
    for case in progress(list(source.cases), "reading images", unit="case"):
        try:
            source.write(case, place)
        except Exception as error:  # noqa: BLE001 (what is no fault of the case is raised again)
            source.faults[case] = fault_of(error, case)
            for path in place.glob(f"{case}_[0-9][0-9][0-9][0-9].*"):
                path.unlink()


def _try_predict(predict: Callable[[Path], object], place: Path) -> Fuse4SegError | None:
    """What is to be raised once the cases that could be predicted are given back; what concerns all is raised here."""
    try:
        predict(place)
    except (OptionError, UnwritableFolderError):
        raise
    except Fuse4SegError as error:
        return error
    return None


def _lines(failure: Fuse4SegError | None) -> list[str]:
    """The lines of a failure, one per case."""
    if failure is None:
        return []
    return failure.faults if isinstance(failure, FaultyCasesError) else [str(failure)]


def _give_back(source: Source, own: OwnOutputs, job: Job) -> None:
    """Write what was predicted, by the record of this run and, if it went on, of those before."""
    done = [case for case in source.cases if job.record.cases.get(case, {}).get("status") == "done"]
    if not done:
        return
    own.note()
    for case in progress(done, "giving back", unit="case"):
        try:
            source.give_back(case)
        except Exception as error:  # noqa: BLE001 (the same)
            source.faults[case] = fault_of(error, case)
    source.finish()


def _raise(faults: Mapping[str, Fuse4SegError]) -> None:
    if len(faults) == 1:
        raise next(iter(faults.values()))
    raise FaultyCasesError(map(str, faults.values()))

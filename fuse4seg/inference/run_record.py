"""What a folder of predictions was made with, and how far it got: run.json, by which an interrupted run goes on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fuse4seg.errors import Fuse4SegError, OptionError, UnreadableRecordError
from fuse4seg.files import checksum, read_json, write_json
from fuse4seg.inference.model_calibration import model_calibration

if TYPE_CHECKING:
    from fuse4seg.inference.export_case import Wanted
    from fuse4seg.inference.model import Model

RUN = "run.json"
#: What must be the same for outputs of two runs to lie in one folder; device and library versions are only told.
DECISIVE = ("model", "folds", "checkpoint", "weights", "options")


@dataclass
class RunRecord:
    """A run and what became of its cases; written after every case.

    Attributes:
        path: The file.
        made_by: Model, weights, options, device, versions, in plain data.
        cases: By name: ``status`` (done, failed), seconds, checksums of the sources, outputs, volumes and doubt, or the reason.
    """

    path: Path
    made_by: dict[str, Any]
    cases: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def model(self) -> str:
        """Name of the model's folder; of an ensemble, all names."""
        named = self.made_by["model"]
        return named if isinstance(named, str) else " + ".join(named)

    @property
    def weights(self) -> list[str]:
        """Checksums of all sets of weights."""
        return [checksum for one in self.made_by["weights"] for checksum in ([one] if isinstance(one, str) else one)]

    def is_done(self, case: str, sources: Sequence[Path], output: Path) -> bool:
        """Whether the case's outputs are there, and were made from these files as they are now."""
        known = self.cases.get(case, {})
        return (known.get("status") == "done" and all((output / name).is_file() for name in known["outputs"])
                and all(path.is_file() for path in sources) and known["sources"] == checksums(sources))

    def note_done(self, case: str, sources: dict[str, str], outputs: Iterable[Path], *, output: Path, seconds: float,
                  absent: Sequence[str] = (), facts: Mapping[str, Any] | None = None) -> None:
        """Write that a case is predicted, once its files are whole.

        Args:
            case: Its name.
            sources: Checksums of its files as they were when they were read, by name.
            outputs: What was written of it.
            output: Folder of these.
            seconds: That it took.
            absent: Modalities that it lacks.
            facts: What else is told of it, in plain data.

        Raises:
            UnwritableFolderError: The operating system refused to write.
        """
        self.cases[case] = {"status": "done", "seconds": round(seconds, 3), "sources": sources,
                            "outputs": sorted(str(path.relative_to(output)) for path in outputs), "absent": list(absent),
                            **(facts or {})}
        self.write()

    def note_failed(self, faults: Mapping[str, Fuse4SegError]) -> None:
        """Keep in mind, until it is written, which cases could not be predicted, and why."""
        self.cases.update({case: {"status": "failed", "reason": str(fault)} for case, fault in faults.items()})

    def write(self) -> None:
        """Write it, whole or not at all."""
        write_json({"made_by": self.made_by, "cases": self.cases}, self.path)


def record_name(part: tuple[int, int]) -> str:
    """Of the record of a part's number, from 0, and how many there are."""
    number, parts = part
    return RUN if parts == 1 else f"run_{number}_of_{parts}.json"


def open_record(output: Path, made_by: dict[str, Any], *, resume: bool, part: tuple[int, int] = (0, 1)) -> RunRecord:
    """Record of a run, with what an earlier one has done if it is to be resumed.

    Args:
        output: Folder of predictions; need not be there.
        made_by: From :func:`describe_run`.
        resume: Take an earlier run's cases over.
        part: This part's number, from 0, and how many there are; each has a record of its own.

    Raises:
        UnreadableRecordError: The earlier record cannot be read.
        OptionError: It was made with another model or other options.
    """
    path = output / record_name(part)
    if not (resume and path.is_file()):
        return RunRecord(path, made_by)
    damaged = partial(UnreadableRecordError, mend="Predict without --continue_prediction, all cases anew.")
    content = read_json(path, damaged)
    if not isinstance(content, dict) or not all(isinstance(content.get(entry), dict) for entry in ("made_by", "cases")):
        raise damaged(path, "is no record of a run")
    for entry in DECISIVE:
        if content["made_by"].get(entry) != made_by[entry]:
            raise OptionError("--continue_prediction", f"{path} was made with {entry} {content['made_by'].get(entry)}, not "
                                                       f"{made_by[entry]}. Predict into another folder.")
    return RunRecord(path, made_by, content["cases"])


def describe_run(model: Path, *, folds: Sequence[int | str], checkpoint: str, device: str, options: dict[str, Any],
                 images: Path | Sequence[Path] | None = None,
                 previous_stage: dict[str, Any] | None = None) -> dict[str, Any]:
    """What decides about the outputs, and what they were made on.

    Args:
        model: Folder Trainer__Plans__configuration.
        folds: Whose weights are averaged.
        checkpoint: File in each fold; a validation may come before any is written.
        device: Where it computes.
        options: Of the prediction, in plain data.
        images: Folder of the input, or its files; None where nothing is known of it.
        previous_stage: What is to be told of a cascade's previous stage. Its segmentations are sources of each case, whose
            checksums decide.
    """
    weights = [path for fold in folds if (path := model / f"fold_{fold}" / checkpoint).is_file()]
    told = {"previous_stage": previous_stage, "input": _input(images), "calibration": model_calibration(model)}
    return {"model": model.name, "folds": list(folds), "checkpoint": checkpoint,
            "weights": list(map(checksum, weights)), "options": options,
            **{entry: content for entry, content in told.items() if content is not None},
            "device": device,
            "versions": {name: version(name) for name in ("fuse4seg", "torch", "nnunetv2", "numpy", "SimpleITK")}}


def _input(images: Path | Sequence[Path] | None) -> dict[str, Any] | None:
    if images is None:
        return None
    if isinstance(images, Path):
        return {"folder": str(images.absolute())}
    return {"files": [str(path.absolute()) for path in images]}


def options_of(model: Model, wanted: Wanted, *, allow_missing: bool = False) -> dict[str, Any]:
    """What a prediction depends on beside the model, in plain data.

    Args:
        model: Loaded.
        wanted: Outputs.
        allow_missing: Whether cases that lack modalities are predicted.
    """
    return {**asdict(wanted), "probabilities": list(wanted.probabilities), "mirroring": bool(model.mirror_axes),
            "step_size": model.step_size, "allow_missing": allow_missing,
            "precision": str(model.precision).removeprefix("torch.")}


def describe_ensemble(members: Mapping[str, dict[str, Any]], *, options: dict[str, Any]) -> dict[str, Any]:
    """The same of an ensemble.

    Args:
        members: From :func:`describe_run`, by the names of their folders in the output.
        options: Of the ensemble alone.
    """
    together = {entry: [described[entry] for described in members.values()] for entry in DECISIVE if entry != "options"}
    one = next(iter(members.values()))
    return {**together, "options": {**options, "members": {name: described["options"] for name, described in members.items()}},
            "device": one["device"], "versions": one["versions"]}


def checksums(sources: Sequence[Path]) -> dict[str, str]:
    """SHA-256 of files, by their names."""
    return {path.name: checksum(path) for path in sources}

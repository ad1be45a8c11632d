"""Failures of trainings and of trained models, each a class with one clear line: what is wrong, where, and the mend."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from signal import Signals

from fuse4seg.errors import CaseError, FileError, Fuse4SegError


class ModelNotFoundError(Fuse4SegError):
    """No trained model fits what was asked for."""

    def __init__(self, where: Path, wanted: str = "") -> None:
        detail = f" for {wanted}" if wanted else ""
        super().__init__(f"no trained model{detail} in {where}. Train one with f4s_train, or check -d, -c, -f, -p and -tr.")


class PreviousStageNotFoundError(Fuse4SegError):
    """The model of a cascade's previous stage is not trained beside that of the stage after."""

    def __init__(self, model: Path, expected: Path) -> None:
        super().__init__(f"{model} is a later stage of a cascade, and the stage before it is not trained: expected {expected}. "
                         f"Train it with f4s_train, or give its segmentations with -prev_stage_predictions.")


class PreviousStageError(CaseError):
    """A case has no usable segmentation of a cascade's previous stage."""


class AmbiguousModelError(Fuse4SegError):
    """Several trained models fit; one has to be chosen."""

    def __init__(self, candidates: Iterable[str]) -> None:
        super().__init__("several trained models fit, choose one with its flags: " + " | ".join(candidates))


class CheckpointNotFoundError(Fuse4SegError):
    """A checkpoint that was asked for does not exist."""

    def __init__(self, path: Path, mend: str) -> None:
        super().__init__(f"{path} does not exist. {mend}")


class CheckpointError(FileError):
    """A checkpoint that cannot be read or does not belong to this model."""


class TrainingRunningError(Fuse4SegError):
    """Another process trains in the same fold's folder."""

    def __init__(self, folder: Path, holder: str) -> None:
        super().__init__(f"{folder} is in use by {holder}. Wait until that training ends, or train another fold.")


class TrainingStoppedError(Fuse4SegError):
    """A training ended early because a signal, or something like it, asked it to; everything is saved.

    Attributes:
        status: What the command exits with, as shells count it: 128 and the signal's number.
    """

    def __init__(self, signal: Signals, saved: Path, *, by: str | None = None) -> None:
        super().__init__(f"stopped by {by or signal.name}; everything is saved in {saved}. Go on with f4s_train --c.")
        self.status = 128 + signal


class RanksError(Fuse4SegError):
    """Processes that train together failed or were stopped: what they said, each once.

    Attributes:
        status: What the command exits with.
    """

    def __init__(self, said: str, *, status: int = 1) -> None:
        super().__init__(said)
        self.status = status


class LostRankError(Fuse4SegError):
    """A process ended because another of those that train together did; ``status`` tells that from a failure of its own."""

    status = 76

    def __init__(self) -> None:
        super().__init__("another process of this training ended; see what it said. The last checkpoint is kept: go on with --c.")


class NonFiniteLossError(Fuse4SegError):
    """Training met a loss that is NaN or infinite."""

    def __init__(self, stage: str, epoch: int, cases: Iterable[str]) -> None:
        super().__init__(f"the loss became NaN or infinite in {stage}, epoch {epoch}, with the cases {', '.join(cases)}. "
                         f"Check these images; the last checkpoint is kept.")


class TrainingExistsError(Fuse4SegError):
    """A fold's folder already holds checkpoints, which a new training would overwrite."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"{folder} already holds a training. Go on with --c, validate it with --val, or move it away.")


class ModelPlansError(Fuse4SegError):
    """plans.json of a trained model is missing, damaged, or describes no network that can be built."""

    def __init__(self, path: Path, problem: str = "is missing", *,
                 mend: str = "Restore the file that belongs to the model") -> None:
        super().__init__(f"{path} {problem}. {mend}, or predict with the version that made it.")


class UntrustedModelError(Fuse4SegError):
    """A model names code that is not ours, PyTorch's or nnU-Net's, which loading it would run."""

    def __init__(self, path: Path, entry: str, name: object) -> None:
        self.problem = f"{entry} names {str(name)[:100]!r}, which is none of the classes that a shared model may use"
        super().__init__(f"{path}: {self.problem}. If you know who made it, give --trust where the command has it.")


class ModelArchiveError(FileError):
    """An archive that cannot be installed: not one of ours, damaged, or hostile."""


class ModelExistsError(Fuse4SegError):
    """A model would be installed over another."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"{folder} exists. Move it away, or replace it with --overwrite.")

"""Find a trained model in the results folder by what the user said about it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from fuse4seg.errors import AmbiguousModelError, ModelNotFoundError
from fuse4seg.paths import RESULTS, data_root, dataset_name

NETWORK = "FuseThenSegment"
FINAL = "checkpoint_final.pth"


@dataclass(frozen=True)
class TrainedModel:
    """A folder of trained folds.

    Attributes:
        folder: <results>/<dataset>/<trainer>__<plans>__<configuration>.
        folds: Those with the wanted checkpoint; numbers, or "all" where there is nothing else.
        checkpoint: The wanted one.
    """

    folder: Path
    folds: tuple[int | str, ...]
    checkpoint: str = FINAL

    @property
    def flags(self) -> str:
        """Flags that choose this model."""
        trainer, plans, configuration = self.folder.name.split("__")
        return f"-d {self.folder.parent.name} -c {configuration} -p {plans} -tr {trainer}"


def find_model(*, dataset: str | None = None, configuration: str | None = None, plans: str | None = None,
               trainer: str | None = None, folds: tuple[int | str, ...] | None = None,
               checkpoint: str = FINAL) -> TrainedModel:
    """The one trained model of ours that fits; what is None may be anything.

    Args:
        dataset: Id or name.
        configuration: Such as 2d.
        plans: Name of the plans.
        trainer: Name of the trainer class.
        folds: Folds that must be there; if None, all trained ones.
        checkpoint: File that makes a fold count as trained.

    Raises:
        ModelNotFoundError: None fits.
        AmbiguousModelError: Several fit; they are listed with their flags.
    """
    results = data_root(RESULTS)
    wanted_dataset = dataset_name(dataset, variables=(RESULTS,)) if dataset is not None else "Dataset*"
    pattern = f"{wanted_dataset}/{trainer or '*'}__{plans or '*'}__{configuration or '*'}"
    candidates = [TrainedModel(folder, trained, checkpoint) for folder in sorted(results.glob(pattern))
                  if folder.name.count("__") == 2 and _is_ours(folder) and (trained := _folds(folder, folds, checkpoint))]
    if not candidates:
        wanted = " ".join(f"{flag} {value}" for flag, value in (("-d", dataset), ("-c", configuration), ("-p", plans),
                          ("-tr", trainer), ("-f", folds and " ".join(map(str, folds)))) if value)
        raise ModelNotFoundError(results, wanted)
    if len(candidates) > 1:
        raise AmbiguousModelError(candidate.flags for candidate in candidates)
    return candidates[0]


def model_in(folder: Path, *, folds: tuple[int | str, ...] | None = None,
             checkpoint: str = FINAL) -> TrainedModel:
    """The trained model of ours in a folder Trainer__Plans__configuration, wherever it lies.

    Raises:
        ModelNotFoundError: There is none, or not with those folds.
    """
    trained = _folds(folder, folds, checkpoint) if _is_ours(folder) else ()
    if not trained:
        raise ModelNotFoundError(folder, folds and "-f " + " ".join(map(str, folds)) or "")
    return TrainedModel(folder, trained, checkpoint)


def _is_ours(folder: Path) -> bool:
    """Whether the folder's plans name our network; stock nnU-Net models lie in the same place."""
    try:
        return NETWORK in (folder / "plans.json").read_text() and bool(json.loads((folder / "dataset.json").read_text()))
    except (OSError, ValueError, RecursionError):
        return False


def _folds(folder: Path, wanted: tuple[int | str, ...] | None, checkpoint: str) -> tuple[int | str, ...]:
    """Trained folds, or nothing unless all wanted ones are trained."""
    names = [path.parent.name.removeprefix("fold_") for path in folder.glob(f"fold_*/{checkpoint}")]
    trained: list[int | str] = sorted(int(name) for name in names if name.isdecimal())
    if wanted is not None:
        return tuple(wanted) if set(wanted) <= {*trained, *(["all"] if "all" in names else [])} else ()
    return tuple(trained) or (("all",) if "all" in names else ())

"""Where data live: nnU-Net's three roots, and the environment that nnU-Net reads."""

from __future__ import annotations

import os
from pathlib import Path

from fuse4seg.errors import AmbiguousDatasetError, DatasetNotFoundError, OptionError, RootNotSetError
from fuse4seg.machine import usable_cores

RAW, PREPROCESSED, RESULTS = "nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"
#: Checkpoints in the folder of a fold, as nnU-Net names them.
LATEST, BEST, FINAL = "checkpoint_latest.pth", "checkpoint_best.pth", "checkpoint_final.pth"
TRAINER_FOLDER = Path(__file__).parent / "training" / "nnunet_trainers"


def set_roots(root: Path | str | None = None) -> None:
    """Point nnU-Net's three roots below one folder; without one, F4S_ROOT or the variables already set hold.

    Args:
        root: Folder that holds (or will hold) nnUNet_raw, nnUNet_preprocessed and nnUNet_results.
    """
    chosen = root or os.environ.get("F4S_ROOT")
    if chosen:
        for variable in (RAW, PREPROCESSED, RESULTS):
            os.environ[variable] = str(Path(chosen).absolute() / variable)


def prepare_environment(*, trainings: int = 1) -> None:
    """Give nnU-Net and PyTorch what they read at import: process counts that fit, our trainer's folder, and how threads wait.

    nnU-Net's defaults (8 and 12 processes) swamp a small machine, and 0 augmentation processes makes its planner crash.

    Args:
        trainings: Processes that train together here, and share the cores.

    Raises:
        OptionError: A process count of the environment is no number.
    """
    # OpenMP's threads would spin, and take cores from each other where these are shared.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    for variable in ("nnUNet_def_n_proc", "nnUNet_n_proc_DA"):
        if not os.environ.get(variable, "0").isdecimal():
            raise OptionError(variable, f"{os.environ[variable]!r} is no number of processes. Set it to 1 or more, or unset it.")
    cores = usable_cores()
    beside = min(12, max(1, cores // trainings - 1))
    for variable, fitting in (("nnUNet_def_n_proc", min(8, cores)), ("nnUNet_n_proc_DA", beside)):
        if int(os.environ.get(variable, "0")) == 0:
            os.environ[variable] = str(fitting)
    known = os.environ.get("nnUNet_extTrainer", "")
    if str(TRAINER_FOLDER) not in known.split(os.pathsep):
        os.environ["nnUNet_extTrainer"] = os.pathsep.join(filter(None, [str(TRAINER_FOLDER), known]))


def data_root(variable: str) -> Path:
    """One of the three roots, as nnU-Net's variable ``variable`` (RAW, PREPROCESSED, RESULTS) names it.

    Raises:
        RootNotSetError: The variable is not set.
    """
    value = os.environ.get(variable)
    if not value:
        raise RootNotSetError(variable)
    return Path(value)


def dataset_name(dataset: str | int, *, variables: tuple[str, ...] = (RAW, PREPROCESSED, RESULTS)) -> str:
    """Full name Dataset<id>_<name> of a dataset given by id or name.

    Args:
        dataset: Id (501) or full name (Dataset501_BraTS).
        variables: Roots to search.

    Raises:
        DatasetNotFoundError: No root holds it.
        AmbiguousDatasetError: The id belongs to several names.
        RootNotSetError: None of the roots is set.
    """
    roots = [Path(os.environ[variable]) for variable in variables if os.environ.get(variable)]
    if not roots:
        raise RootNotSetError(variables[0])
    text = str(dataset)
    pattern = f"Dataset{int(text):03d}_*" if text.isdecimal() else text
    plain = text.isdecimal() or (text.startswith("Dataset") and not set(text) & set("*?[/\\"))
    names = sorted({found.name for root in roots for found in root.glob(pattern) if found.is_dir()}) if plain else []
    if not names:
        raise DatasetNotFoundError(text, roots)
    if len(names) > 1:
        raise AmbiguousDatasetError(text, names)
    return names[0]

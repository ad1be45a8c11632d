"""Set a training up from what a user asked for, checking all of it first, and run it."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.utilities.crossval_split import generate_crossval_split
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from fuse4seg.checkpoint import load_checkpoint, load_first_sound, previous_of
from fuse4seg.datasets.raw import channel_names, foreground_classes, read_dataset_json
from fuse4seg.datasets.splits import SPLITS_FILE, USUAL, read_splits, require_fold
from fuse4seg.errors import (
    ConfigurationNotFoundError,
    DeviceUnavailableError,
    FoldError,
    ForeignPlansError,
    NotPreprocessedError,
    OptionError,
    PlansNotFoundError,
    TrainingExistsError,
    first_line,
)
from fuse4seg.files import make_writable_folder, write_json
from fuse4seg.machine import usable_cores
from fuse4seg.networks.planned_network import build_network
from fuse4seg.paths import PREPROCESSED, RESULTS, data_root, dataset_name
from fuse4seg.plans import NETWORK, OURS, PLANS_NAME, read_plans
from fuse4seg.training.fold_lock import require_unlocked
from fuse4seg.training.hypergradients import BY_MEMORY
from fuse4seg.training.options import PRETRAIN_EPOCHS, TrainingOptions
from fuse4seg.training.saving import SaveEvery
from fuse4seg.training.stage_1 import PRETRAINED, PRETRAINING_LATEST
from fuse4seg.training.trainer import BEST, FINAL, LATEST, Fuse4SegTrainer

log = logging.getLogger(__name__)

#: Options whose flag has another name.
FLAGS = {"auxiliary_weight": "--auxiliary_head"}
#: Most wanted first.
RESUMABLE = (FINAL, LATEST, previous_of(Path(LATEST)).name, BEST)
STAGE_1 = (PRETRAINED, PRETRAINING_LATEST, previous_of(Path(PRETRAINING_LATEST)).name)


class Found(NamedTuple):
    """A checkpoint, and what is in it."""

    path: Path
    state: dict[str, Any]

    @property
    def options(self) -> TrainingOptions:
        """What it was trained with; raises as :meth:`TrainingOptions.of_checkpoint` does."""
        return TrainingOptions.of_checkpoint(self.state, self.path)


@dataclass(frozen=True)
class Training:
    """Which training is meant.

    Attributes:
        dataset: Id or name.
        configuration: 2d, 3d_fullres, 3d_lowres, ...
        fold: Number or "all".
        plans: Name of the plans file without ending.
        trainer: Name of the trainer class.
        device: "cuda", "cpu", "mps", or None for the best one here.
    """

    dataset: str
    configuration: str
    fold: int | str
    plans: str = PLANS_NAME
    trainer: str = "Fuse4SegTrainer"
    device: str | None = None


def train(training: Training, *, chosen: dict[str, Any] | None = None, resume: bool = False,
          validate_only: bool = False, save_every: SaveEvery | None = None) -> None:
    """Both stages, then nnU-Net's validation of the fold.

    Args:
        training: Which one.
        chosen: Options the user set, by the names that TrainingOptions.changed takes; None values are defaults.
        resume: Go on with the latest checkpoint.
        validate_only: Validate the finished training.
        save_every: How often the latest checkpoint is written; the trainer's own if None.

    Raises:
        TrainingStoppedError: A signal asked it to stop; everything is saved.
        Fuse4SegError: Whatever does not fit; nothing has been written then.
    """
    if (chosen or {}).get("pretrain_epochs"):
        _require_moving_leader(chosen)
    trainer = make_trainer(training, chosen=chosen, resume=resume, validate_only=validate_only, save_every=save_every)
    if not validate_only:
        trainer.run_training()
    trainer.perform_actual_validation()


def _require_moving_leader(chosen: dict[str, Any] | None) -> None:
    if (chosen or {}).get("leader_learning_rate") == 0:
        raise OptionError("--leader_learning_rate", "0 leaves nothing to train in pre-training. Leave it out.")


def pretrain(training: Training, *, chosen: dict[str, Any] | None = None, save_every: SaveEvery | None = None) -> Path:
    """Stage 1 alone, from where it was left, else of PRETRAIN_EPOCHS; returns the file it leaves."""
    # Before make_trainer makes folders.
    if (chosen or {}).get("pretrain_epochs") == 0:
        raise OptionError("--pretrain_epochs", "0 leaves nothing to do. Give at least 1.")
    _require_moving_leader(chosen)
    trainer = make_trainer(training, chosen=chosen, resume=True, save_every=save_every)
    if not trainer.options.pretrain_epochs:
        trainer.options = trainer.options.changed(pretrain_epochs=PRETRAIN_EPOCHS)
    trainer.run_pretraining()
    return trainer.pretrained_file


def make_trainer(training: Training, *, chosen: dict[str, Any] | None = None, resume: bool = False,
                 validate_only: bool = False, save_every: SaveEvery | None = None) -> Fuse4SegTrainer:
    """A trainer ready to run, with its checkpoint loaded where one is wanted."""
    device = choose_device(training.device)
    name, plans = _load_plans(training)
    _require_fold(training, name, plans)
    folder = data_root(RESULTS) / name / f"{training.trainer}__{training.plans}__{training.configuration}"
    fold = folder / f"fold_{training.fold}"
    require_unlocked(fold)
    checkpoint = _find_checkpoint(fold, resume=resume, validate_only=validate_only)
    stage_1 = _find_stage_1(fold) if resume and checkpoint is None else None
    dataset_json = read_dataset_json(data_root(PREPROCESSED) / name)
    labelled = bool(foreground_classes(dataset_json))
    defaults = TrainingOptions() if labelled else TrainingOptions.without_labels()
    options = _choose_options(checkpoint, stage_1, chosen or {}, defaults)
    options.require_fit(len(channel_names(dataset_json)))
    if not labelled:
        options.require_no_task()
    _require_network(training, name, plans, dataset_json)
    trainer_class = _trainer_class(training.trainer)
    make_writable_folder(fold)
    trainer = trainer_class({**plans, "continue_training": resume}, training.configuration, training.fold, dataset_json,
                            device)
    # A user's trainer may come with options of its own; what was chosen on the command line goes over them.
    trainer.options = options if checkpoint or stage_1 else trainer.options.changed(**(chosen or {}))
    if checkpoint is None and not trainer.options.pretrain_epochs and (chosen or {}).get("pretrain_epochs") is None:
        trainer.options = _with_stage_1_of(fold, trainer.options)
    if save_every is not None:
        trainer.set_save_every(save_every)
    _warn_of_unplanned_memory(plans, trainer.options)
    if checkpoint is not None:
        trainer.take_up(checkpoint.state, checkpoint.path)
    _write_splits(training, data_root(PREPROCESSED) / name, plans)
    return trainer


def _warn_of_unplanned_memory(plans: dict[str, Any], options: TrainingOptions) -> None:
    planned, wanted = plans.get(OURS, {}).get("hypergradient"), options.bilevel.hypergradient
    if planned in BY_MEMORY and BY_MEMORY.index(wanted) > BY_MEMORY.index(planned):
        log.warning("%s takes more memory than %s, which the plans were made for. Should it run out, plan again with "
                    "--hypergradient %s.", wanted, planned, wanted)


def choose_device(wanted: str | None) -> torch.device:
    """The device a user named, or the best one here; CPU threads are set to fit, unless OMP_NUM_THREADS says how many.

    Raises:
        DeviceUnavailableError: It is not on this machine.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    name = wanted or next(kind for kind, here in available.items() if here)
    if not available.get(name, False):
        raise DeviceUnavailableError(name)
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(usable_cores() if name == "cpu" else 1)
    return torch.device(name)


def _load_plans(training: Training) -> tuple[str, dict[str, Any]]:
    """Full dataset name and plans, with the configuration planned for our network and preprocessed."""
    name = dataset_name(training.dataset)
    folder = data_root(PREPROCESSED) / name
    path = folder / f"{training.plans}.json"
    plans = read_plans(path)
    try:
        manager = PlansManager(dict(plans))
        available = manager.available_configurations
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PlansNotFoundError(path, "holds no plans") from error
    if training.configuration not in available:
        raise ConfigurationNotFoundError(training.configuration, path, available)
    configuration = manager.get_configuration(training.configuration)
    if configuration.network_arch_class_name != NETWORK:
        raise ForeignPlansError(training.plans)
    data = folder / configuration.data_identifier
    if not data.is_dir() or not any(data.iterdir()):
        raise NotPreprocessedError(data, training.configuration)
    return name, plans


def _require_network(training: Training, name: str, plans: dict[str, Any], dataset_json: dict[str, Any]) -> None:
    """Make sure that the plans describe a network, without its memory: another version may have made them, or somebody's hand.

    Raises:
        PlansNotFoundError: They describe none that can be built.
    """
    manager = PlansManager(dict(plans))
    try:
        with torch.device("meta"):
            build_network(manager, manager.get_configuration(training.configuration), dataset_json)
    except Exception as error:
        path = data_root(PREPROCESSED) / name / f"{training.plans}.json"
        raise PlansNotFoundError(path, f"describes no network that can be built ({first_line(error, kind=True)})",
                                 mend="Plan again with f4s_plan_and_preprocess, or name other plans with -p.") from error


def _require_fold(training: Training, name: str, plans: dict[str, Any]) -> None:
    """Make sure that the fold can be split off."""
    if training.fold == "all":
        return
    folder = data_root(PREPROCESSED) / name
    require_fold(folder, int(training.fold))
    splits = read_splits(folder)
    data, cases = _preprocessed_cases(training, folder, plans)
    if splits is None:
        if len(cases) < USUAL:
            raise FoldError(f"{name} has {len(cases)} training cases, too few for {USUAL} folds. "
                            f"Train fold all, or write {folder / SPLITS_FILE}.")
        return
    fold = splits[int(training.fold)]
    unknown = {*fold["train"], *fold["val"]} - set(cases)
    if unknown:
        raise FoldError(f"{folder / SPLITS_FILE} names case {min(unknown)}, which {data} does not hold. Preprocess it, or mend "
                        "the file.")


def _preprocessed_cases(training: Training, folder: Path, plans: dict[str, Any]) -> tuple[Path, list[str]]:
    data = folder / PlansManager(dict(plans)).get_configuration(training.configuration).data_identifier
    return data, sorted(infer_dataset_class(str(data)).get_identifiers(str(data)))


def _write_splits(training: Training, folder: Path, plans: dict[str, Any]) -> None:
    """Write nnU-Net's split, where there is none, as nnU-Net would, but whole."""
    if training.fold != "all" and not (folder / SPLITS_FILE).is_file():
        write_json(generate_crossval_split(_preprocessed_cases(training, folder, plans)[1]), folder / SPLITS_FILE)


def _find_checkpoint(folder: Path, *, resume: bool, validate_only: bool) -> Found | None:
    """The checkpoint of stage 2 to go on from, None to start anew. A damaged one is passed over, but not by a validation."""
    present = [folder / name for name in RESUMABLE if (folder / name).is_file()]
    if validate_only:
        return Found(folder / FINAL, load_checkpoint(folder / FINAL, mend="Finish the training first."))
    if present and not resume:
        raise TrainingExistsError(folder)
    return Found(*load_first_sound(present)) if present else None


def _find_stage_1(folder: Path) -> Found | None:
    """What an interrupted or finished stage 1 left; None if it has not begun."""
    present = [folder / name for name in STAGE_1 if (folder / name).is_file()]
    return Found(*load_first_sound(present)) if present else None


def _with_stage_1_of(folder: Path, options: TrainingOptions) -> TrainingOptions:
    """Options that take up a stage 1 which lies in the folder, if there is any."""
    found = _find_stage_1(folder)
    begun = TrainingOptions() if found is None else found.options
    return options.changed(pretrain_epochs=begun.pretrain_epochs)


def _choose_options(checkpoint: Found | None, stage_1: Found | None, chosen: dict[str, Any],
                    defaults: TrainingOptions) -> TrainingOptions:
    """Defaults, or what the training began with, with what was chosen.

    Raises:
        OptionError: What was chosen is not what it has been trained with so far.
    """
    begun = checkpoint or stage_1
    if begun is None:
        return defaults.changed(**chosen)
    trained = begun.options
    wanted = trained.changed(**chosen)
    if checkpoint is not None and wanted != trained:
        differing = next(name for name, value in chosen.items() if value is not None
                         and trained.changed(**{name: value}) != trained)
        asked = chosen[differing] if isinstance(chosen[differing], (str, int, float)) else " ".join(chosen[differing])
        problem = f"{asked} differs from what {checkpoint.path} was trained with."
        raise OptionError(FLAGS.get(differing, f"--{differing}"), f"{problem} Leave it out, or train anew elsewhere.")
    return wanted


def _trainer_class(name: str) -> type[Fuse4SegTrainer]:
    """Our trainer, or a user's own that extends it, from the folders of nnUNet_extTrainer.

    nnU-Net's own search begins with its package, where no trainer extends ours, and imports all of it: with a torchvision
    that does not fit torch, that fails.

    Raises:
        OptionError: There is none, or it does not extend ours.
    """
    if name == Fuse4SegTrainer.__name__:
        return Fuse4SegTrainer
    folders = filter(os.path.isdir, os.environ.get("nnUNet_extTrainer", "").split(os.pathsep))
    found = next(filter(None, (recursive_find_python_class(folder, name, None, cleanup_imports_from_base_folder=True)
                               for folder in folders)), None)
    if found is None:
        raise OptionError("-tr", f"no trainer {name} in nnUNet_extTrainer. Put its folder there, or use Fuse4SegTrainer; "
                                 f"nnU-Net's own are for nnUNetv2_train.")
    if not issubclass(found, Fuse4SegTrainer):
        raise OptionError("-tr", f"{name} does not extend Fuse4SegTrainer. Train it with nnUNetv2_train.")
    return found

"""Set a training up from what a user asked for, checking all of it first, and run it."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.utilities.crossval_split import generate_crossval_split
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from fuse4seg.checkpoint import load_checkpoint, load_first_sound, previous_of
from fuse4seg.datasets.dataset_json import may_lack_channels, read_dataset_json
from fuse4seg.datasets.splits import SPLITS_FILE, USUAL, read_splits, require_fold
from fuse4seg.errors import FoldError, OptionError, PlansNotFoundError, RecipeError, first_line
from fuse4seg.files import make_writable_folder, write_json
from fuse4seg.machine import choose_device
from fuse4seg.model_errors import CheckpointError, TrainingExistsError
from fuse4seg.networks.fuse_then_segment import FuseThenSegment
from fuse4seg.networks.planned_network import build_network
from fuse4seg.paths import BEST, FINAL, LATEST, PREPROCESSED, RESULTS, data_root
from fuse4seg.plans import GPUS, OURS, PLANS_NAME, planned_recipe, read_plans
from fuse4seg.ranks import is_first, world_size
from fuse4seg.recipes.reading import changed, difference_of, name_after
from fuse4seg.recipes.recipe import Recipe
from fuse4seg.steps.hypergradients import BY_MEMORY
from fuse4seg.training.acceleration import Acceleration
from fuse4seg.training.distributed import agreed, joined, require_distributable, require_shares
from fuse4seg.training.finetuning import read_transferable
from fuse4seg.training.fold_lock import require_unlocked
from fuse4seg.training.limits import Limits
from fuse4seg.training.loggers import require_loggers, wandb_asked
from fuse4seg.training.origin import require_beginning
from fuse4seg.training.planned import Planned, planned_training
from fuse4seg.training.recipe import require_fit, trained_with
from fuse4seg.training.saving import SaveEvery
from fuse4seg.training.stage_1 import PRETRAINED, PRETRAINING_LATEST
from fuse4seg.training.trainer import Fuse4SegTrainer

log = logging.getLogger(__name__)

#: Most wanted first.
STAGE_1 = (PRETRAINED, PRETRAINING_LATEST, previous_of(Path(PRETRAINING_LATEST)).name)
RESUMABLE = (FINAL, LATEST, previous_of(Path(LATEST)).name, BEST)


class Found(NamedTuple):
    """A checkpoint, and what is in it."""

    path: Path
    state: dict[str, Any]


@dataclass(frozen=True)
class Conduct:
    """How a training is run, which does not change what it learns from one epoch to the next.

    Attributes:
        save_every: How often the latest checkpoint is written; the trainer's own if None.
        limits: What ends it early.
        tensorboard: Whether TensorBoard's event files are written.
        acceleration: How its steps are computed; as the environment says if None.
    """

    save_every: SaveEvery | None = None
    limits: Limits = field(default_factory=Limits)
    tensorboard: bool = False
    acceleration: Acceleration | None = None


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
        changes: Entries of the plans' recipe that differ here, as :func:`~fuse4seg.recipes.reading.changed` takes them; they are
            in the name of the training's folder.
    """

    dataset: str
    configuration: str
    fold: int | str
    plans: str = PLANS_NAME
    trainer: str = "Fuse4SegTrainer"
    device: str | None = None
    changes: tuple[str, ...] = ()

    @property
    def folder_name(self) -> str:
        """Of the model: Trainer__Plans__configuration."""
        return f"{name_after(self.trainer, self.changes)}__{self.plans}__{self.configuration}"


def train(training: Training, *, seed: int | None = None, resume: bool = False, validate_only: bool = False,
          conduct: Conduct | None = None, save_probabilities: bool = False, pretrained_weights: Path | None = None) -> None:
    """Both stages, then nnU-Net's validation of the fold.

    Args:
        training: Which one.
        seed: Of weights, sampling and augmentation; None for that of a resumed training, else 0.
        resume: Go on with the latest checkpoint.
        validate_only: Validate the finished training.
        conduct: How it is run.
        save_probabilities: Of the validation cases, which ensembles are made of.
        pretrained_weights: Checkpoint or folder of a model to begin with, see :mod:`~fuse4seg.training.finetuning`.

    Raises:
        TrainingStoppedError: A signal asked it to stop, or its time was up before its end; everything is saved.
        Fuse4SegError: Whatever does not fit; nothing has been written then.
    """
    with joined(training.device):
        trainer = agreed(lambda: make_trainer(training, seed=seed, resume=resume, validate_only=validate_only, conduct=conduct,
                                              pretrained_weights=pretrained_weights), tell=_begins_at)
        if not validate_only:
            trainer.run_training()
        trainer.perform_actual_validation(save_probabilities)


def pretrain(training: Training, *, seed: int | None = None, conduct: Conduct | None = None) -> Path:
    """Stage 1 alone, from where it was left; returns the file it leaves, which a training of the same recipe goes on from.

    Raises:
        RecipeError: The recipe has no stage 1.
        Fuse4SegError: As in :func:`train`.
    """
    recipe = planned_training(training).recipe
    if not recipe.pretraining.epochs:
        raise RecipeError("pretraining.epochs", "is 0, so there is no stage 1. Give --set pretraining.epochs=80, here and to "
                                                "f4s_train.", source=recipe.name)
    with joined(training.device):
        trainer = agreed(lambda: make_trainer(training, seed=seed, resume=True, conduct=conduct), tell=_begins_at)
        trainer.run_pretraining()
    return trainer.pretrained_file


def _begins_at(trainer: Fuse4SegTrainer) -> str:
    return f"epoch {trainer.current_epoch}, iteration {len(trainer.epoch.reports)}"


def make_trainer(training: Training, *, seed: int | None = None, resume: bool = False, validate_only: bool = False,
                 conduct: Conduct | None = None, pretrained_weights: Path | None = None) -> Fuse4SegTrainer:
    """A trainer ready to run, with its checkpoint loaded where one is wanted; arguments as for :func:`train`."""
    device, conduct = choose_device(training.device), conduct or Conduct()
    require_loggers(tensorboard=conduct.tensorboard)
    if conduct.acceleration is not None and not validate_only:
        conduct.acceleration.require(device)
    if seed is not None and seed < 0:
        raise OptionError("--seed", f"must be at least 0, got {seed}.")
    planned = planned_training(training)
    name, plans, configuration, recipe = planned
    _require_fold(training, planned)
    fold = data_root(RESULTS) / name / training.folder_name / f"fold_{training.fold}"
    if is_first():
        require_unlocked(fold)
    checkpoint = _find_checkpoint(fold, resume=resume, validate_only=validate_only)
    dataset_json = read_dataset_json(data_root(PREPROCESSED) / name)
    require_fit(recipe, dataset_json)
    network = _require_network(training, planned, dataset_json)
    require_distributable(recipe, network, device, ranks=world_size(), incomplete=may_lack_channels(dataset_json))
    _require_recipe_of_other_folds(training, fold, plans)
    _require_previous_stage(training, planned)
    require_shares(recipe, configuration.batch_size, ranks=world_size())
    trainer_class = _trainer_class(training.trainer)
    if checkpoint is not None:
        seed = _require_same(checkpoint, trainer_class, recipe, seed=seed)
    elif resume and seed is None:
        seed = _seed_of_stage_1(fold)
    origin = None
    if pretrained_weights is not None:
        require_beginning([fold / name for name in STAGE_1], resume=resume, validate_only=validate_only)
        origin = read_transferable(pretrained_weights, network, recipe, training, plans=plans, dataset_json=dataset_json)
    make_writable_folder(fold)
    trainer_class = _named_after(training, trainer_class)
    # What Weights & Biases holds of the fold is gone on with, whatever has been done of it.
    going_on = resume or validate_only or any((fold / name).is_file() for name in STAGE_1)
    with wandb_asked():
        trainer = trainer_class({**plans, "continue_training": going_on}, training.configuration, training.fold, dataset_json,
                                device)
    _take_conduct(trainer, training, conduct, seed=seed or 0)
    trainer.origin = origin
    _warn_of_unplanned_memory(plans, trainer.recipe)
    if checkpoint is not None:
        trainer.take_up(checkpoint.state, checkpoint.path)
    _write_splits(training, planned)
    return trainer


def _take_conduct(trainer: Fuse4SegTrainer, training: Training, conduct: Conduct, *, seed: int) -> None:
    # A user's trainer may come with a recipe of its own; what was chosen on the command line goes over it.
    trainer.recipe, trainer.seed = changed(trainer.recipe, training.changes, in_training=True), seed
    if conduct.save_every is not None:
        trainer.set_save_every(conduct.save_every)
    trainer.set_limits(conduct.limits)
    trainer.tensorboard = conduct.tensorboard
    trainer.acceleration = conduct.acceleration or trainer.acceleration


def _require_same(checkpoint: Found, trainer_class: type[Fuse4SegTrainer], recipe: Recipe, *, seed: int | None) -> int:
    """The seed that a checkpoint was trained with, once it is sure that it is one of the training that is asked for.

    Raises:
        OptionError: It was trained with another seed.
        CheckpointError: It was trained with another recipe, or does not say so.
    """
    begun, begun_with = trained_with(checkpoint.state, checkpoint.path)
    if seed not in (None, begun_with):
        raise OptionError("--seed", f"{seed} differs from what {checkpoint.path} was trained with. Leave it out, or train anew "
                                    f"elsewhere.")
    # Of a user's own trainer the recipe is not known before it is made.
    if trainer_class is Fuse4SegTrainer and (difference := difference_of(begun, recipe)):
        raise CheckpointError(checkpoint.path, f"was trained with another {difference} than the plans say. Plan under another "
                                               f"name, or remove it to train anew.")
    return begun_with


def _seed_of_stage_1(fold: Path) -> int:
    """What an interrupted or finished stage 1 was begun with, 0 if there is none."""
    present = [fold / name for name in STAGE_1 if (fold / name).is_file()]
    if not present:
        return 0
    path, state = load_first_sound(present)
    return trained_with(state, path)[1]


def _warn_of_unplanned_memory(plans: dict[str, Any], recipe: Recipe) -> None:
    planned, gpus = planned_recipe(plans, "plans"), plans[OURS].get(GPUS, 1)
    if world_size() < gpus:
        log.warning("the plans' memory is that of %d GPUs, which share each batch. With fewer, each takes more.", gpus)
    if planned.bilevel is None or recipe.bilevel is None:
        return
    was, wanted = planned.bilevel.hypergradient, recipe.bilevel.hypergradient
    if BY_MEMORY.index(wanted) > BY_MEMORY.index(was):
        log.warning("%s takes more memory than %s, which the plans were made for. Should it run out, plan again with --set "
                    "bilevel.hypergradient=%s.", wanted, was, wanted)


def _require_network(training: Training, planned: Planned, dataset_json: dict[str, Any]) -> FuseThenSegment:
    """The network that the plans describe, without its memory, if they do: another version may have made them, or a hand.

    Raises:
        PlansNotFoundError: They describe none that can be built.
    """
    try:
        with torch.device("meta"):
            return build_network(PlansManager(dict(planned.plans)), planned.configuration, dataset_json)
    except Exception as error:
        path = data_root(PREPROCESSED) / planned.dataset / f"{training.plans}.json"
        raise PlansNotFoundError(path, f"describes no network that can be built ({first_line(error, kind=True)})",
                                 mend="Plan again with f4s_plan_and_preprocess, or name other plans with -p.") from error


def _require_recipe_of_other_folds(training: Training, fold: Path, plans: dict[str, Any]) -> None:
    """Make sure that all folds of a model are trained by the same recipe.

    Raises:
        OptionError: The plans were made anew with another one in between.
    """
    path = fold.parent / "plans.json"
    if not path.is_file() or not any(place.parent != fold for place in fold.parent.glob("fold_*/*.pth")):
        return
    begun = planned_recipe(read_plans(path), path)
    if difference := difference_of(begun, planned_recipe(plans, training.plans)):
        raise OptionError("-p", f"{training.plans} says another {difference} than {path}, which other folds were trained by. "
                                f"Plan under another name, or remove {fold.parent}.")


def _require_previous_stage(training: Training, planned: Planned) -> None:
    """Make sure that a cascade's first stage has left its labels.

    Raises:
        OptionError: It has not, or not a training with the same changes.
    """
    previous = planned.configuration.previous_stage_name
    if previous is None:
        return
    labels = data_root(RESULTS) / planned.dataset / replace(training, configuration=previous).folder_name / "predicted_next_stage"
    if not (labels / training.configuration).is_dir():
        raise OptionError("configuration", f"{training.configuration} is the second stage of a cascade, which sees what "
                                           f"{previous} left in {labels}. Train {previous} first, all folds, by the same "
                                           f"trainer with the same --set.")


def _require_fold(training: Training, planned: Planned) -> None:
    """Make sure that the fold can be split off."""
    if training.fold == "all":
        return
    folder = data_root(PREPROCESSED) / planned.dataset
    require_fold(folder, int(training.fold))
    splits = read_splits(folder)
    data, cases = _preprocessed_cases(planned)
    if splits is None:
        if len(cases) < USUAL:
            raise FoldError(f"{planned.dataset} has {len(cases)} training cases, too few for {USUAL} folds. "
                            f"Train fold all, or write {folder / SPLITS_FILE}.")
        return
    fold = splits[int(training.fold)]
    unknown = {*fold["train"], *fold["val"]} - set(cases)
    if unknown:
        raise FoldError(f"{folder / SPLITS_FILE} names case {min(unknown)}, which {data} does not hold. Preprocess it, or mend "
                        "the file.")
    unused = sorted(set(cases).difference(*(split[part] for split in splits for part in ("train", "val"))))
    if unused:
        log.warning("%s has %s in no fold, so it is neither trained on nor validated (%d such cases). Add it, or remove the "
                    "file to split anew", folder / SPLITS_FILE, unused[0], len(unused))


def _preprocessed_cases(planned: Planned) -> tuple[Path, list[str]]:
    data = data_root(PREPROCESSED) / planned.dataset / planned.configuration.data_identifier
    return data, sorted(infer_dataset_class(str(data)).get_identifiers(str(data)))


def _write_splits(training: Training, planned: Planned) -> None:
    """Write nnU-Net's split, where there is none, as nnU-Net would, but whole."""
    path = data_root(PREPROCESSED) / planned.dataset / SPLITS_FILE
    if is_first() and training.fold != "all" and not path.is_file():
        write_json(generate_crossval_split(_preprocessed_cases(planned)[1]), path)


def _find_checkpoint(folder: Path, *, resume: bool, validate_only: bool) -> Found | None:
    """The checkpoint of stage 2 to go on from, None to start anew. A damaged one is passed over, but not by a validation."""
    present = [folder / name for name in RESUMABLE if (folder / name).is_file()]
    if validate_only:
        return Found(folder / FINAL, load_checkpoint(folder / FINAL, mend="Finish the training first."))
    if present and not resume:
        raise TrainingExistsError(folder)
    return Found(*load_first_sound(present)) if present else None


def _named_after(training: Training, trainer_class: type[Fuse4SegTrainer]) -> type[Fuse4SegTrainer]:
    """A class of the name that nnU-Net is to call the folder by."""
    return type(name_after(training.trainer, training.changes), (trainer_class,), {}) if training.changes else trainer_class


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
    if found is None and "-" in name:
        raise OptionError("-tr", f"{name} is a folder's name. Give the trainer alone, and what was changed with --set.")
    if found is None:
        raise OptionError("-tr", f"no trainer {name} in nnUNet_extTrainer. Put its folder there, or use Fuse4SegTrainer; "
                                 f"nnU-Net's own are for nnUNetv2_train.")
    if not issubclass(found, Fuse4SegTrainer):
        raise OptionError("-tr", f"{name} does not extend Fuse4SegTrainer. Train it with nnUNetv2_train.")
    return found

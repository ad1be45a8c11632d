"""What a training was planned as: its plans, made for our network and preprocessed, and their recipe with its changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from fuse4seg.errors import ConfigurationNotFoundError, ForeignPlansError, NotPreprocessedError, PlansNotFoundError
from fuse4seg.paths import PREPROCESSED, data_root, dataset_name
from fuse4seg.plans import NETWORK, PLANS_NAME, planned_recipe, read_plans
from fuse4seg.recipes.reading import changed
from fuse4seg.recipes.recipe import Recipe

if TYPE_CHECKING:
    from fuse4seg.training.run import Training


class Planned(NamedTuple):
    """What the plans say of a training.

    Attributes:
        dataset: Its full name.
        plans: All of them.
        configuration: The one of them that is trained.
        recipe: The plans', with the training's changes.
    """

    dataset: str
    plans: dict[str, Any]
    configuration: ConfigurationManager
    recipe: Recipe


def planned_training(training: Training) -> Planned:
    """What a training was planned as; else an error says what is missing."""
    name, plans, configuration = _load_plans(training)
    path = data_root(PREPROCESSED) / name / f"{training.plans}.json"
    return Planned(name, plans, configuration, changed(planned_recipe(plans, path), training.changes, in_training=True))


def _load_plans(training: Training) -> tuple[str, dict[str, Any], ConfigurationManager]:
    """Full dataset name, plans, and their configuration, which was planned for our network and preprocessed."""
    name = dataset_name(training.dataset)
    folder = data_root(PREPROCESSED) / name
    path = folder / f"{training.plans}.json"
    others = sorted(found.stem for found in folder.glob(f"{PLANS_NAME}*.json"))
    if others and not path.is_file():
        raise PlansNotFoundError(path, mend=f"There are other plans, to be named with -p: {', '.join(others)}.")
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
    return name, plans, configuration

"""Preprocessing: nnU-Net's own preprocessor, in one pass over the cases."""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from fuse4seg.datasets.raw import is_labelled, read_raw_dataset_json, training_cases
from fuse4seg.errors import ConfigurationNotFoundError, WorkerDiedError
from fuse4seg.files import make_writable_folder, written_whole
from fuse4seg.nnunet_output import logged_prints
from fuse4seg.paths import PREPROCESSED, RAW, data_root, dataset_name
from fuse4seg.planning.one_pass import OnePassPreprocessor
from fuse4seg.planning.unlabelled import UnlabelledPreprocessor
from fuse4seg.planning.usable_plans import usable_plans
from fuse4seg.plans import PLANS_NAME

logger = logging.getLogger(__name__)

#: What is preprocessed unless the user chooses; the cascade's second stage uses the data of 3d_fullres.
DEFAULT_CONFIGURATIONS = ("2d", "3d_fullres", "3d_lowres")
REFERENCES = "gt_segmentations"


def preprocess(dataset: str | int, *, plans_name: str = PLANS_NAME, configurations: Sequence[str] | None = None,
               processes: int) -> None:
    """Preprocess the training cases of a planned dataset, and put the labels it has beside them for validation.

    Args:
        dataset: Id or full name.
        plans_name: Name of the plans file, without its ending.
        configurations: Which to preprocess; without any, those of 2d, 3d_fullres and 3d_lowres that are planned.
        processes: Cases preprocessed at a time.

    Raises:
        PlansNotFoundError: The dataset has no such plans.
        ConfigurationNotFoundError: The plans lack one of ``configurations``.
        WorkerDiedError: A process ended without an answer.
    """
    name = dataset_name(dataset, variables=(RAW,))
    raw, preprocessed = data_root(RAW) / name, data_root(PREPROCESSED) / name
    description = read_raw_dataset_json(raw)
    labels = {f"{case}{description['file_ending']}": found.label
              for case, found in training_cases(raw, description).items() if found.label is not None}
    plans_file = preprocessed / f"{plans_name}.json"
    plans = usable_plans(plans_file)
    chosen = choose_configurations(configurations, plans, plans_file=plans_file)
    make_writable_folder(preprocessed)
    by_class: dict[type[DefaultPreprocessor], list[str]] = {}
    for configuration in chosen:
        preprocessor = plans.get_configuration(configuration).preprocessor_class
        by_class.setdefault(preprocessor if is_labelled(raw, description) else UnlabelledPreprocessor, []).append(configuration)
    for preprocessor, group in by_class.items():
        logger.info("preprocessing %s for %s", name, ", ".join(group))
        with _worker_death(f"preprocessing {', '.join(group)}"):
            _preprocess_group(name, group, preprocessor=preprocessor(verbose=False), plans=plans, plans_name=plans_name,
                              processes=processes)
    if labels:
        _copy_labels(labels, make_writable_folder(preprocessed / REFERENCES))


def choose_configurations(wanted: Sequence[str] | None, plans: PlansManager, *, plans_file: Path) -> list[str]:
    """Configurations to preprocess, each set of preprocessed data once.

    Raises:
        ConfigurationNotFoundError: The plans lack a wanted one.
    """
    available = plans.available_configurations
    names = wanted or [name for name in DEFAULT_CONFIGURATIONS if name in available]
    for name in names:
        if name not in available:
            raise ConfigurationNotFoundError(name, plans_file, available)
    by_folder: dict[str, str] = {}
    for name in names:
        by_folder.setdefault(plans.get_configuration(name).data_identifier, name)
    return list(by_folder.values())


def _preprocess_group(dataset: str, configurations: Sequence[str], *, preprocessor: DefaultPreprocessor, plans: PlansManager,
                      plans_name: str, processes: int) -> None:
    """Preprocess for all configurations in one pass over the cases; data that are there already are removed, as by nnU-Net."""
    folders = {data_root(PREPROCESSED) / dataset / plan.data_identifier: plan
               for plan in map(plans.get_configuration, configurations[1:])}
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
        make_writable_folder(folder)
    one_pass = OnePassPreprocessor(preprocessor, folders)
    # In a log file, each update of nnU-Net's bar is a line to scroll past.
    one_pass.show_progress_bar = sys.stderr.isatty()
    with logged_prints():
        one_pass.run(dataset, configurations[0], plans_name, num_processes=processes)


@contextmanager
def _worker_death(task: str) -> Iterator[None]:
    """Name the death of one of nnU-Net's processes, for which it has no class of its own."""
    try:
        yield
    except RuntimeError as error:
        if "background" not in str(error):
            raise
        raise WorkerDiedError(task) from error


def _copy_labels(labels: dict[str, Path], folder: Path) -> None:
    """Copy the labels that are newer than their copies, as nnU-Net does (with a module that Python dropped in 3.12)."""
    for name, label in labels.items():
        copy = folder / name
        if not copy.exists() or label.stat().st_mtime > copy.stat().st_mtime:
            with written_whole(copy) as temporary:
                shutil.copy2(label, temporary)

"""Preprocessing: nnU-Net's own preprocessor, in one pass over the cases, by plans that are known to be usable."""

from __future__ import annotations

import filecmp
import logging
import math
import shutil
from collections.abc import Mapping, Sequence
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from fuse4seg.datasets.dataset_json import (
    declare_missing,
    is_labelled,
    may_lack_channels,
    read_dataset_json,
    read_raw_dataset_json,
)
from fuse4seg.datasets.raw import Case, training_cases
from fuse4seg.errors import (
    ConfigurationNotFoundError,
    DatasetJsonError,
    FingerprintNotFoundError,
    PlansNotFoundError,
    UnwritableFolderError,
    first_line,
)
from fuse4seg.evaluation.volumes import FINGERPRINT
from fuse4seg.farm.farm import Farm, Job
from fuse4seg.farm.processes import FEWER, ProcessFarm
from fuse4seg.files import make_writable_folder, written_whole
from fuse4seg.machine import free_memory, require_memory
from fuse4seg.nnunet_output import logged_prints
from fuse4seg.paths import PREPROCESSED, RAW, data_root, dataset_name
from fuse4seg.planning.fingerprint import WINDOWS, read_fingerprint
from fuse4seg.planning.preprocessors import NotStoredError, OnePassPreprocessor, UnlabelledPreprocessor
from fuse4seg.plans import PLANS_NAME, read_plans
from fuse4seg.progress import progress

logger = logging.getLogger(__name__)

#: What is preprocessed unless the user chooses; the cascade's second stage uses the data of 3d_fullres.
DEFAULT_CONFIGURATIONS = ("2d", "3d_fullres", "3d_lowres")
REFERENCES = "gt_segmentations"
CHANNEL_BYTES = 4


def preprocess(dataset: str | int, *, plans_name: str = PLANS_NAME, configurations: Sequence[str] | None = None,
               processes: int, farm: Farm | None = None, allow_missing: bool = False) -> None:
    """Preprocess the training cases of a planned dataset, and put the labels it has beside them for validation.

    Args:
        dataset: Id or full name.
        plans_name: Name of the plans file, without its ending.
        configurations: Which to preprocess; without any, those of 2d, 3d_fullres and 3d_lowres that are planned.
        processes: Cases preprocessed at a time.
        farm: Workers that do it in place of these processes; they see the folders of the dataset as this process does.
        allow_missing: Cases may lack channels, whatever dataset.json says; it was planned so, or says so from then on.

    Raises:
        PlansNotFoundError: The dataset has no such plans.
        ConfigurationNotFoundError: The plans lack one of ``configurations``.
        NotEnoughMemoryError: So many cases at a time do not fit into the memory.
        WorkerDiedError: A process ended without an answer.
        FaultyImageError: A case cannot be preprocessed.
        UnwritableFolderError: The operating system refused to write. In each of these cases, earlier data stay as they were.
    """
    name = dataset_name(dataset, variables=(RAW,))
    raw, preprocessed = data_root(RAW) / name, data_root(PREPROCESSED) / name
    description = read_raw_dataset_json(raw, allow_missing=allow_missing or _is_declared(preprocessed))
    cases = training_cases(raw, description)
    labels = {f"{name}{description['file_ending']}": case.label for name, case in cases.items() if case.label is not None}
    plans_file = preprocessed / f"{plans_name}.json"
    plans = usable_plans(plans_file)
    chosen = choose_configurations(configurations, plans, plans_file=plans_file)
    make_writable_folder(preprocessed)
    if may_lack_channels(description):
        declare_missing(preprocessed)  # first: cases that lack some are never there without it
    with suppress(FingerprintNotFoundError):  # plans may have come without one
        if farm is None:
            _require_memory(read_fingerprint(preprocessed / FINGERPRINT), plans, chosen, processes=processes)
    by_class: dict[type[DefaultPreprocessor], list[str]] = {}
    for configuration in chosen:
        preprocessor = plans.get_configuration(configuration).preprocessor_class
        by_class.setdefault(preprocessor if is_labelled(raw, description) else UnlabelledPreprocessor, []).append(configuration)
    with nullcontext(farm) if farm else ProcessFarm(["cpu"] * min(processes, len(cases)), mend=FEWER) as workers:
        for preprocessor, group in by_class.items():
            logger.info("preprocessing %s for %s", name, ", ".join(group))
            _preprocess_group(preprocessed, cases, group, preprocessor=preprocessor(verbose=False), plans=plans, farm=workers)
    if labels:
        _copy_labels(labels, make_writable_folder(preprocessed / REFERENCES))


def _is_declared(preprocessed: Path) -> bool:
    """Whether planning was told that cases may lack channels."""
    with suppress(DatasetJsonError):  # not planned, which is said later
        return may_lack_channels(read_dataset_json(preprocessed))
    return False


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


def _require_memory(fingerprint: dict[str, Any], plans: PlansManager, configurations: Sequence[str], *, processes: int) -> None:
    """Make sure that as many of the largest case as there are processes find room, before and after resampling.

    Raises:
        NotEnoughMemoryError: They do not; it says how many processes would be few enough.
    """
    channels = len(fingerprint[WINDOWS])
    largest = max(channels * CHANNEL_BYTES * (math.prod(shape) + resampled_voxels(shape, spacing, plans, name))
                  for shape, spacing in zip(fingerprint["shapes_after_crop"], fingerprint["spacings"], strict=True)
                  for name in configurations)
    fitting = (free_memory() or 0) // largest
    require_memory(processes * largest, task=f"preprocessing with {processes} processes",
                   mend=f"Use -np {fitting}." if fitting else "End other programs, or preprocess on a larger machine.")


def resampled_voxels(shape: Sequence[int], spacing: Sequence[float], plans: PlansManager, configuration: str) -> int:
    """Voxels of a case after resampling; 2D configurations leave the slices where they are."""
    order = plans.transpose_forward
    current = [spacing[axis] for axis in order]
    target = [current[0], *plans.get_configuration(configuration).spacing][-3:]
    return math.prod(round(shape[axis] * now / then) for axis, now, then in zip(order, current, target, strict=True))


def _preprocess_group(base: Path, cases: Mapping[str, Case], configurations: Sequence[str], *,
                      preprocessor: DefaultPreprocessor, plans: PlansManager, farm: Farm) -> None:
    """Preprocess for all configurations in one pass over the cases; data that are there already are replaced at the end."""
    chosen = {base / plan.data_identifier: plan for plan in map(plans.get_configuration, configurations)}
    unfinished = {folder.with_name(f".partial.{folder.name}"): plan for folder, plan in chosen.items()}
    try:
        for folder in unfinished:
            shutil.rmtree(folder, ignore_errors=True)  # a killed run's
            make_writable_folder(folder)
        (first, plan), *further = unfinished.items()
        one_pass = OnePassPreprocessor(preprocessor, dict(further))
        description = read_dataset_json(base)
        job = Job(partial(_Preprocessing, one_pass, first, plans, plan, description), _preprocess_case, "preprocessing")
        _run_all(farm, job, [Found(name, case, case.found) for name, case in cases.items()])
        for made, folder in zip(unfinished, chosen, strict=True):
            _replace_folder(made, folder)
    finally:
        for folder in unfinished:
            shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class _Preprocessing:
    """What a worker holds: nnU-Net's arguments that all cases share, the first configuration's folder among them."""

    one_pass: OnePassPreprocessor
    first: Path
    plans: PlansManager
    plan: ConfigurationManager
    description: dict[str, Any]


class Found(NamedTuple):
    """A case, and which of its channels it was found to have: files that go afterwards make it a faulty one."""

    name: str
    case: Case
    present: tuple[bool, ...]


def _preprocess_case(shared: _Preprocessing, found: Found) -> None:
    """Preprocess and store one case."""
    images = [str(path) if there else None for path, there in zip(found.case.images, found.present, strict=True)]
    try:
        with logged_prints():
            shared.one_pass.run_case_save(str(shared.first / found.name), images, found.case.label and str(found.case.label),
                                          shared.plans, shared.plan, shared.description)
    except NotStoredError as error:
        raise UnwritableFolderError(shared.first.parent, str(error)) from error


def _run_all(farm: Farm, job: Job, cases: Sequence[Found]) -> None:
    """Preprocess and store cases in workers.

    Raises:
        WorkerDiedError, FaultyImageError, UnwritableFolderError: The first thing that went wrong.
    """
    with closing(farm.outcomes(job, cases, name=lambda found: found.name)) as outcomes:
        for outcome in progress(outcomes, "preprocessing", unit="case", total=len(cases)):
            if outcome.failure is not None:
                raise outcome.failure


def _replace_folder(made: Path, folder: Path) -> None:
    """Put a folder in the place of one that may be there, so that at no time half of either is in that place."""
    old = folder.with_name(f".old.{folder.name}")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.replace(old)
    made.replace(folder)
    shutil.rmtree(old, ignore_errors=True)


def _copy_labels(labels: dict[str, Path], folder: Path) -> None:
    """Copy the labels that differ from their copies; dates do not tell, for unpacked or fetched files may keep older ones."""
    for name, label in labels.items():
        copy = folder / name
        if not copy.exists() or not filecmp.cmp(label, copy, shallow=False):
            with written_whole(copy) as temporary:
                shutil.copy2(label, temporary)


def usable_plans(path: Path) -> PlansManager:
    """Plans of a dataset, all of whose configurations can be preprocessed as far as can be told from the file.

    Raises:
        PlansNotFoundError: They are missing, cannot be read, or lack something.
    """
    plans = PlansManager(read_plans(path))
    try:
        for name in plans.available_configurations:
            _require_usable(plans, name)
    except (LookupError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        raise PlansNotFoundError(path, f"cannot be used ({first_line(error, kind=True)})") from error
    return plans


def _require_usable(plans: PlansManager, name: str) -> None:
    configuration = plans.get_configuration(name)
    preprocessor = configuration.preprocessor_class
    if not (isinstance(preprocessor, type) and issubclass(preprocessor, DefaultPreprocessor)):
        raise ValueError(f"{name} names the preprocessor {configuration.preprocessor_name!r}, which nnU-Net does not have")
    if not all(isinstance(step, (int, float)) and step > 0 for step in configuration.spacing):
        raise ValueError(f"{name} has the spacing {configuration.spacing}")
    # Each is looked up as it is asked for.
    entries = (configuration.resampling_fn_data, configuration.resampling_fn_seg, configuration.data_identifier,
               configuration.normalization_schemes, configuration.use_mask_for_norm)
    if not all(entries):
        raise ValueError(f"an entry of {name} is empty")

"""plans.json of a trained model, which may be a stranger's: it names classes, and only known ones are ever looked up."""

from __future__ import annotations

import inspect
import pydoc
import re
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import nnunetv2
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.preprocessing.normalization.default_normalization_schemes import ImageNormalization
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from fuse4seg.errors import first_line
from fuse4seg.files import read_json
from fuse4seg.model_errors import ModelPlansError, UntrustedModelError

#: Where the networks of plans, and their building blocks, come from.
PACKAGES = ("torch.nn", "dynamic_network_architectures", "fuse4seg.networks", "fuse4seg.leaders", "fuse4seg.followers")
#: A dotted path without private parts; "a.b.os.system" is one as well, so what it leads to is looked at, too.
DOTTED = re.compile(r"[A-Za-z]\w*(\.[A-Za-z]\w*)+", re.ASCII)
IDENTIFIER = re.compile(r"[A-Za-z]\w*", re.ASCII)
RESAMPLING = "nnunetv2.preprocessing.resampling."
#: No stage has so many features, no patch such an edge; larger numbers only serve to fill the memory.
LARGEST_NUMBER = 2**14


def read_model_plans(path: Path, *, trust: bool = False) -> dict[str, Any]:
    """Content of a trained model's plans.json, checked so that nnU-Net can be given it.

    Args:
        path: The file.
        trust: Take any class; for models whose maker is known.

    Raises:
        ModelPlansError: It is missing, damaged, or lacks something.
        UntrustedModelError: It names a class that is not known.
    """
    plans = read_json(path, ModelPlansError)
    if not isinstance(plans, dict) or not isinstance(plans.get("configurations"), dict):
        raise ModelPlansError(path, "holds no plans")
    if not trust:
        require_known_classes(plans, path)
    return plans


def require_known_classes(plans: dict[str, Any], path: Path) -> None:
    """Make sure that every class and function that plans name is one of nnU-Net's, PyTorch's or ours.

    nnU-Net imports what plans name and calls it with arguments from the same file.

    Args:
        plans: Content of plans.json.
        path: The file.

    Raises:
        ModelPlansError: Something is missing or of another kind than nnU-Net expects.
        UntrustedModelError: A name is not known.
    """
    manager = PlansManager(deepcopy(plans))
    try:
        _require_names(manager, path)
    except (LookupError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        raise ModelPlansError(path, f"cannot be used ({first_line(error, kind=True)})") from error


def _require_names(manager: PlansManager, path: Path) -> None:
    reader = manager.plans["image_reader_writer"]
    _require(_is_a(_found("imageio", reader), BaseReaderWriter), path, "image_reader_writer", reader)
    if "label_manager" in manager.plans:
        labels = manager.plans["label_manager"]
        _require(_is_a(_found("utilities/label_handling", labels), LabelManager), path, "label_manager", labels)
    planner = manager.plans.get("experiment_planner_used", "ExperimentPlanner")
    _require(isinstance(planner, str) and IDENTIFIER.fullmatch(planner), path, "experiment_planner_used", planner)
    for axes in (manager.transpose_forward, manager.transpose_backward):
        if sorted(axes) != [0, 1, 2]:
            raise ValueError(f"{axes} is no order of three axes")
    for name in manager.available_configurations:
        configuration = manager.get_configuration(name)
        _require_configuration(configuration, path, f"configuration {name}")
        previous = configuration.previous_stage_name
        # Names a folder beside the model's.
        if previous is not None and not (previous in manager.available_configurations and Path(previous).name == previous):
            raise ValueError(f"previous_stage of configuration {name} is {previous}")
        _require_architecture(configuration.configuration["architecture"], path, f"architecture of {name}")


def _require_configuration(configuration: ConfigurationManager, path: Path, where: str) -> None:
    entries = configuration.configuration
    preprocessor = entries["preprocessor_name"]
    known = _is_a(_found("preprocessing", preprocessor), DefaultPreprocessor)
    _require(known, path, f"preprocessor_name of {where}", preprocessor)
    for scheme in entries["normalization_schemes"]:
        _require(_is_a(_found("preprocessing/normalization", scheme), ImageNormalization), path,
                 f"normalization_schemes of {where}", scheme)
    for kind in ("data", "seg", "probabilities"):
        entry = f"resampling_fn_{kind}"
        function = _found("preprocessing/resampling", entries[entry])
        known = inspect.isfunction(function) and function.__module__.startswith(RESAMPLING)
        _require(known, path, f"{entry} of {where}", entries[entry])
        inspect.signature(function).bind(None, (), (), (), **entries[f"{entry}_kwargs"])
    patch, spacing = entries["patch_size"], entries["spacing"]
    if len(patch) not in (2, 3) or not all(type(edge) is int and 0 < edge <= LARGEST_NUMBER for edge in patch):
        raise ValueError(f"patch_size of {where} is {patch}")
    if len(spacing) not in (2, 3) or not all(0 < step < float("inf") for step in spacing):
        raise ValueError(f"spacing of {where} is {spacing}")


def _require_architecture(architecture: dict[str, Any], path: Path, where: str) -> None:
    """The network, and those inside it: leader and follower stand among the arguments of ours."""
    network, arguments = architecture["network_class_name"], architecture["arch_kwargs"]
    _require(_is_network_part(network), path, f"{where}: network_class_name", network)
    for argument in architecture["_kw_requires_import"]:
        if arguments[argument] is not None:
            _require(_is_network_part(arguments[argument]), path, f"{where}: {argument}", arguments[argument])
    largest = max((abs(number) for number in _integers(arguments)), default=0)
    if largest > LARGEST_NUMBER:
        raise ValueError(f"{where} holds the number {largest}")
    for part in ("leader", "follower"):
        if part in arguments:
            _require_architecture(arguments[part], path, f"{part} in {where}")


def _is_network_part(name: object) -> bool:
    """Whether a dotted path leads to a module class that is defined in one of the packages, and can be imported from there."""
    if not isinstance(name, str) or not DOTTED.fullmatch(name) or not _is_within(name):
        return False
    # Imports modules of these packages and nothing else.
    found = pydoc.locate(name)
    return _is_a(found, nn.Module) and _is_within(f"{found.__module__}.")


def _is_within(name: str) -> bool:
    return any(name.startswith(f"{package}.") for package in PACKAGES)


def _found(place: str, name: object) -> object:
    """What nnU-Net finds by this name in a part of its package; None where there is nothing."""
    if not isinstance(name, str) or not IDENTIFIER.fullmatch(name):
        return None
    parts = place.split("/")
    return recursive_find_python_class(str(Path(nnunetv2.__path__[0], *parts)), name, ".".join(["nnunetv2", *parts]))


def _is_a(found: object, base: type) -> bool:
    return isinstance(found, type) and issubclass(found, base)


def _integers(value: Any) -> Iterator[int]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _integers(item)
    elif isinstance(value, int):
        yield value


def _require(known: object, path: Path, entry: str, name: object) -> None:
    if not known:
        raise UntrustedModelError(path, entry, name)

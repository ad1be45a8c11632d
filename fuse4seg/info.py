"""What a report of a problem needs: versions, devices, roots, models and extras; no content of files."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from fuse4seg.evaluation.postprocessing import POSTPROCESSING
from fuse4seg.inference.find_model import find_models
from fuse4seg.inference.validate_fold import VALIDATION
from fuse4seg.machine import free_memory, free_shared_memory, usable_cores
from fuse4seg.paths import PREPROCESSED, RAW, RESULTS

#: Our distribution, whose metadata name what it needs.
PACKAGE = "fuse4seg"
#: Variables that nnU-Net, PyTorch and this tool read, beside the roots.
VARIABLES = ("nnUNet_def_n_proc", "nnUNet_n_proc_DA", "nnUNet_extTrainer", "nnUNet_compile", "OMP_NUM_THREADS",
             "CUDA_VISIBLE_DEVICES")


def collect() -> dict[str, Any]:
    """Everything, as JSON takes it.

    Returns:
        ``versions`` by package (null: not installed), ``machine``, ``devices``, ``variables``, ``roots`` (path, whether it is
        there, datasets), ``models`` (folds, those that are validated, whether there is post-processing) and ``extras`` (by
        name, which of their packages are missing).
    """
    return {"versions": _versions(), "machine": _machine(), "devices": _devices(),
            "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
            "roots": _roots(), "models": _models(), "extras": _extras()}


def to_text(info: Mapping[str, Any]) -> str:
    """The same for people: a heading for each part, and a line for each entry.

    Args:
        info: From :func:`collect`.
    """
    lines = []
    for part, content in info.items():
        lines += [part, *([f"  {name}: {_worded(value)}" for name, value in content.items()] or ["  none"])]
    return "\n".join(lines)


def _worded(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_worded(entry)}" for name, entry in value.items())
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return "not there" if value is None else {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _requirements() -> list[Requirement]:
    try:
        return [Requirement(line) for line in requires(PACKAGE) or ()]
    except PackageNotFoundError:
        return []


def _extra(requirement: Requirement) -> str | None:
    """Name of the extra that a package is for; None of what is always needed."""
    words = str(requirement.marker or "").replace("'", '"').partition('extra == "')[2]
    return words.partition('"')[0] or None


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _versions() -> dict[str, str | None]:
    needed = [requirement.name for requirement in _requirements() if _extra(requirement) is None]
    return {"python": platform.python_version(), **{name: _installed(name) for name in (PACKAGE, *needed)}}


def _extras() -> dict[str, dict[str, list[str]]]:
    """By extra, its packages that are not installed, or not in a version that fits."""
    lacking: dict[str, list[str]] = {}
    for requirement in _requirements():
        if (extra := _extra(requirement)) is not None:
            found = _installed(requirement.name)
            sound = found is not None and requirement.specifier.contains(found, prereleases=True)
            lacking.setdefault(extra, []).extend([] if sound else [f"{requirement.name}{requirement.specifier}"])
    return {extra: {"missing": packages} for extra, packages in lacking.items()}


def _machine() -> dict[str, Any]:
    free, shared = free_memory(), free_shared_memory()
    return {"system": platform.platform(), "executable": sys.executable, "cores": usable_cores(),
            "free memory, GB": None if free is None else round(free / 1e9, 1),
            "free shared memory, GB": None if shared is None else round(shared / 1e9, 1)}


def _devices() -> dict[str, Any]:
    import torch

    found: dict[str, Any] = {"cpu": platform.processor() or platform.machine()}
    if torch.backends.mps.is_available():
        found["mps"] = True
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        known = torch.cuda.get_device_properties(number)
        found[f"cuda:{number}"] = {"name": known.name, "memory, GB": round(known.total_memory / 1e9, 1),
                                   "capability": f"{known.major}.{known.minor}"}
    found["CUDA of PyTorch"] = torch.version.cuda
    return found


def _roots() -> dict[str, Any]:
    found: dict[str, Any] = {"F4S_ROOT": os.environ.get("F4S_ROOT")}
    for variable in (RAW, PREPROCESSED, RESULTS):
        place = os.environ.get(variable)
        folder = Path(place) if place else None
        found[variable] = None if folder is None else {
            "path": str(folder), "there": folder.is_dir(),
            "datasets": sorted(path.name for path in folder.glob("Dataset*") if path.is_dir())}
    return found


def _models() -> dict[str, Any]:
    models = find_models() if os.environ.get(RESULTS) else []
    return {f"{model.folder.parent.name}/{model.folder.name}": {
        "folds": list(model.folds),
        "validated": [fold for fold in model.folds if (model.folder / f"fold_{fold}" / VALIDATION).is_dir()],
        "postprocessing": (model.folder / POSTPROCESSING).is_file()} for model in models}

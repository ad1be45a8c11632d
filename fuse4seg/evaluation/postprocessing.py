"""Post-processing of segmentations: rules that clear islands and fill holes, and the file beside a model that holds them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from fuse4seg.errors import UnreadableRecordError, first_line
from fuse4seg.files import read_json, write_json

#: Beside plans.json in a model's folder.
POSTPROCESSING = "postprocessing.json"
#: In the file: rules of the model by itself, and of ensembles by the names of the other models.
ALONE, TOGETHER = "alone", "together_with"
LARGEST, SMALLEST, HOLES = "largest_component", "smallest_volume", "fill_holes"
RULES = (LARGEST, SMALLEST, HOLES)
#: What a rule is about that treats all classes as one.
FOREGROUND = "foreground"
#: Voxels that touch by a corner are connected, as in nnU-Net.
TOUCHING = ndimage.generate_binary_structure(3, 3)


@dataclass(frozen=True)
class Rule:
    """One step of post-processing.

    Attributes:
        about: Name of a class or region, or FOREGROUND.
        labels: The label values that make it up.
        rule: LARGEST keeps the largest connected component (all of equal size), SMALLEST removes components of less than
            ``volume``, both to background; HOLES gives enclosed background the label of the nearest voxel.
        volume: Cubic millimetres, above 0; None but for SMALLEST.
    """

    about: str
    labels: tuple[int, ...]
    rule: str
    volume: float | None = None

    def to_plain(self) -> dict[str, Any]:
        """For a JSON file."""
        return {"class": self.about, "labels": list(self.labels), "rule": self.rule, "value": self.volume}

    def __str__(self) -> str:
        """In words."""
        volume = "" if self.volume is None else f" {self.volume:g} mm3"
        return f"{self.about}: {self.rule}{volume}"


def apply_rules(labels: np.ndarray, rules: Iterable[Rule], *, spacing: Sequence[float]) -> np.ndarray:
    """A segmentation after rules, one after the other.

    Args:
        labels: Label values, shape (Z, Y, X); a picture is a volume of one slice.
        rules: To apply.
        spacing: Millimetres along Z, Y, X.

    Returns:
        A new array of the same shape and type; ``labels`` itself where no rule changes anything.

    Example:
        >>> labels = np.array([[[1, 1, 0, 2], [0, 0, 0, 0]]])
        >>> apply_rules(labels, [Rule("foreground", (1, 2), "largest_component")], spacing=(1, 1, 1)).tolist()
        [[[1, 1, 0, 0], [0, 0, 0, 0]]]
        >>> apply_rules(labels, [Rule("b", (2,), "smallest_volume", 4.0)], spacing=(1, 2, 2)).tolist()
        [[[1, 1, 0, 2], [0, 0, 0, 0]]]
    """
    for rule in rules:
        mask = np.isin(labels, rule.labels)
        if mask.any():
            labels = _filled(labels, mask, spacing) if rule.rule == HOLES else _cleared(labels, mask, rule, spacing)
    return labels


def _cleared(labels: np.ndarray, mask: np.ndarray, rule: Rule, spacing: Sequence[float]) -> np.ndarray:
    box = ndimage.find_objects(mask.view(np.uint8))[0]
    components, count = ndimage.label(mask[box], structure=TOUCHING)
    sizes = np.bincount(components.ravel(), minlength=count + 1)
    # Background is no component.
    kept = sizes == sizes[1:].max() if rule.rule == LARGEST else sizes * math.prod(spacing) >= rule.volume
    kept[0] = True
    if kept.all():
        return labels
    cleared = labels.copy()
    cleared[box][~kept[components]] = 0
    return cleared


def _filled(labels: np.ndarray, mask: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    box = ndimage.find_objects(mask.view(np.uint8))[0]
    inside, part = mask[box], labels[box]
    # In a volume of one slice, every voxel lies at the border.
    whole = ndimage.binary_fill_holes(inside[0])[None] if len(mask) == 1 else ndimage.binary_fill_holes(inside)
    holes = whole & (part == 0)
    if not holes.any():
        return labels
    nearest = ndimage.distance_transform_edt(~inside, sampling=spacing, return_distances=False, return_indices=True)
    filled = labels.copy()
    filled[box][holes] = part[tuple(nearest[:, holes])]
    return filled


def read_rules(models: Sequence[Path], *, known: Iterable[int]) -> tuple[Rule, ...]:
    """Rules that were learnt for a model, or for an ensemble of several; none where nothing is written of it.

    Args:
        models: Their folders, in any order. An ensemble's rules lie beside the first in the alphabet.
        known: Label values of their dataset.json.

    Raises:
        UnreadableRecordError: The file is damaged, or names other labels.

    Example:
        >>> read_rules([Path("nowhere")], known=(0, 1))
        ()
    """
    path, others = _place(models)
    if not path.is_file():
        return ()
    damaged = partial(UnreadableRecordError, mend="Learn it anew with f4s_find_best_configuration, or remove it.")
    content = read_json(path, damaged)
    try:
        together = content.get(TOGETHER, {})
        learnt = [tuple(map(_rule, entry["rules"])) for entry in (content.get(ALONE), *together.values()) if entry is not None]
        if surplus := {value for rules in learnt for rule in rules for value in rule.labels} - (set(known) - {0}):
            raise ValueError(f"label {min(surplus)} is none of the model's")
        wanted = together.get(others) if others else content.get(ALONE)
        return () if wanted is None else tuple(map(_rule, wanted["rules"]))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise damaged(path, f"holds no rules that can be applied ({first_line(error, kind=True)})") from error


def _rule(entry: Mapping[str, Any]) -> Rule:
    rule = Rule(entry["class"], tuple(entry["labels"]), entry["rule"], entry["value"])
    volume_sound = type(rule.volume) in (int, float) and 0 < rule.volume < math.inf
    if rule.rule not in RULES or (not volume_sound if rule.rule == SMALLEST else rule.volume is not None):
        raise ValueError(f"{str(rule)[:100]} is no rule")
    if not isinstance(rule.about, str) or not rule.labels or not all(type(value) is int for value in rule.labels):
        raise ValueError(f"{str(rule.about)[:100]} is no class")
    return rule


def write_rules(learnt: Mapping[str, Any], models: Sequence[Path]) -> Path:
    """Write what was learnt for a model, or an ensemble; what the file says of others stays, unless it is damaged.

    Args:
        learnt: Plain data; ``rules`` is a list of :meth:`Rule.to_plain`, other entries are for readers.
        models: As for :func:`read_rules`.

    Returns:
        The file.

    Raises:
        UnwritableFolderError: The operating system refused to write.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = write_rules({"rules": [Rule("core", (1,), "fill_holes").to_plain()]}, [Path(folder)])
        ...     print(*read_rules([Path(folder)], known=(0, 1)))
        core: fill_holes
    """
    path, others = _place(models)
    try:
        content = read_json(path, UnreadableRecordError) if path.is_file() else {}
    except UnreadableRecordError:
        content = {}
    content = content if isinstance(content, dict) else {}
    if others:
        known = content.get(TOGETHER)
        content[TOGETHER] = {**(known if isinstance(known, dict) else {}), others: learnt}
    else:
        content[ALONE] = learnt
    write_json(content, path)
    return path


def _place(models: Sequence[Path]) -> tuple[Path, str]:
    """The file, and under which name an ensemble stands in it; none of a single model."""
    first, *others = sorted(models, key=lambda folder: folder.name)
    return first / POSTPROCESSING, " + ".join(folder.name for folder in others)

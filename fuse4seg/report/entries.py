"""What the pages say of a case and of the run: numbers, faults and the record, in plain data for the templates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.ndimage import find_objects

from fuse4seg.datasets.dataset_json import IGNORE
from fuse4seg.evaluation.bootstrap import defined_mean
from fuse4seg.evaluation.folders import Classes, Scores, score_class
from fuse4seg.evaluation.visibility import RING, visibility
from fuse4seg.evaluation.volumes import volumes_of
from fuse4seg.inference.panel import LABEL_COLOURS
from fuse4seg.report.case_images import CaseImages
from fuse4seg.report.prediction import PredictedCase, Prediction

#: Kinds of faults that the list can be filtered by, and what they are called there.
FAULTS = {"missing": "lacks a modality", "alignment": "may not be aligned", "empty": "nothing segmented",
          "unread": "a file could not be shown"}
#: Voxels around labels that visibility looks at: the ring, and what blurs into it.
MARGIN = RING + 2


def label_names(dataset_json: Mapping[str, Any]) -> dict[int, str]:
    """Names of the values that a segmentation holds, without background; of regions, each by the value that is written of it.

    Example:
        >>> label_names({"labels": {"background": 0, "whole": [1, 2], "core": 2}, "regions_class_order": [1, 2]})
        {1: 'whole', 2: 'core'}
    """
    labels = {name: entry for name, entry in dataset_json["labels"].items() if name not in ("background", IGNORE)}
    if "regions_class_order" in dataset_json:
        return dict(zip(dataset_json["regions_class_order"], labels, strict=True))
    return {entry[0] if isinstance(entry, list) else entry: name for name, entry in labels.items()}


def label_colours(dataset_json: Mapping[str, Any]) -> dict[int, str]:
    """Their colours, as pictures have them."""
    return {value: LABEL_COLOURS[(value - 1) % len(LABEL_COLOURS)] for value in sorted(label_names(dataset_json))}


def case_entry(case: PredictedCase, images: CaseImages, prediction: Prediction) -> dict[str, Any]:
    """What the pages say of a case that could be read."""
    classes = prediction.classes
    volumes = volumes_ml(images, classes)
    scored = scores(images, classes, ignored=prediction.dataset_json["labels"].get(IGNORE))
    doubt = _part(case.told, "doubt")
    sizes = _part(doubt, "size")
    found = faults_of(case, images, prediction)
    rows = [{"name": name, "ml": volumes[name], "dice": scored[name].values["Dice"] if scored else None,
             "hd95": scored[name].values["HD95"] if scored else None, "size": sizes.get(name)} for name in volumes]
    dice = defined_mean(row["dice"] for row in rows) if scored else math.nan
    return {"name": case.name, "score": doubt.get("score"), "classes": rows, "scored": bool(scored), "compared": bool(sizes),
            "dice": None if math.isnan(dice) else dice, "ml": sum(volumes.values()),
            "present": [name for name, volume in volumes.items() if volume > 0], "faults": [line for _, line in found],
            "kinds": sorted({kind for kind, _ in found}), "facts": facts_of(case, images, prediction)}


def faults_of(case: PredictedCase, images: CaseImages, prediction: Prediction) -> list[tuple[str, str]]:
    """What a reader should know before trusting a case: one of FAULTS, and a line."""
    lacking = [name for name in case.told.get("absent", ()) if isinstance(name, str)]
    found = [("missing", f"predicted without {', '.join(lacking)}")] if lacking else []
    found += [("alignment", f"{name} may not be aligned with the other modalities: {_off(entry)}. f4s_register repairs it.")
              for name, entry in _part(case.told, "alignment").items() if _part(entry).get("suspect")]
    if images.labels is not None and not images.labels.any():
        found.append(("empty", "nothing was segmented"))
    if prediction.without_sources is None:
        found += [("unread", f"{name} is not shown: {why}") for name, why in images.absent.items() if name not in lacking]
    return found + [("unread", line) for line in images.faults]


def suspects_of(case: PredictedCase) -> list[tuple[str, str]]:
    """Modalities that may not be aligned, each with the reference one, of which no alignment is recorded."""
    told = _part(case.told, "alignment")
    reference = next((name for name in case.sources if name not in told), None)
    return [(name, reference) for name, entry in told.items() if _part(entry).get("suspect") and reference is not None]


def facts_of(case: PredictedCase, images: CaseImages, prediction: Prediction) -> list[tuple[str, str]]:
    """Further numbers, by what they are of."""
    doubt = _part(case.told, "doubt")
    seen = visible_boundaries(images, label_names(prediction.dataset_json))
    facts = [("fused image", f"the one of {place}")] if (place := case.fused.parent.name).startswith("fold_") else []
    facts += [(f"visibility of {name.replace('|', ' against ')}", f"{value:.2f}") for name, value in seen.items()]
    for name, unit in (("entropy", " nats at the boundary"), ("disagreement", " (1 - Dice)")):
        if isinstance(doubt.get(name), (int, float)):
            facts.append((name, f"{doubt[name]:.3f}{unit}"))
    if parts := _part(doubt, "components"):
        facts.append(("components", ", ".join(f"{name} {count}" for name, count in parts.items())))
    facts += [(f"{name}, alignment", _off(entry)) for name, entry in _part(case.told, "alignment").items()]
    if isinstance(case.told.get("seconds"), (int, float)):
        facts.append(("predicted in", f"{case.told['seconds']:.1f} s"))
    return facts


def record_of(prediction: Prediction) -> list[tuple[str, str]]:
    """Model, folds, weights, options, versions, as run.json tells them."""
    made_by = prediction.made_by
    record = [(name, _words(made_by[name])) for name in ("model", "folds", "checkpoint", "device") if name in made_by]
    record += [("weights, SHA-256", _words(made_by["weights"]))] if "weights" in made_by else []
    for name in ("options", "versions"):
        record += [(name, ", ".join(f"{key} {_words(value)}" for key, value in _part(made_by, name).items()))]
    return [(name, value) for name, value in record if value] or [("record", "the folder has no run.json")]


def calibration_of(prediction: Prediction) -> str | None:
    """How well doubt told bad cases on the model's own validation, in a line; None where that is not recorded."""
    known = _part(prediction.made_by, "calibration")
    alone = _part(known, "by_volume_alone")
    try:
        by_volume = f", by volume alone {_ranked(alone)}" if alone else ""
        return (f"How far to trust doubt: on the {known['cases']} cases of the model's validation its rank correlation with "
                f"Dice, and the share of the worst fifth that was in the most doubtful fifth, were {_ranked(known)}{by_volume}.")
    except (KeyError, TypeError, ValueError):
        return None


def _ranked(found: Mapping[str, Any]) -> str:
    rho, share = found.get("rank_correlation"), found.get("worst_fifth_found")
    return " and ".join("none" if value is None else form.format(value) for form, value in (("{:.2f}", rho), ("{:.0%}", share)))


def _off(entry: Any) -> str:
    entry = _part(entry)
    parts = []
    if isinstance(entry.get("shift"), Sequence) and not isinstance(entry["shift"], str):
        # What is kept says where the modality lies; to fit, it goes back.
        back = ", ".join(f"{0.0 - float(step):.1f}" for step in entry["shift"])
        parts.append(f"best after a shift of ({back}) mm")
    if isinstance(entry.get("turn"), (int, float)):
        parts.append(f"a turn of {entry['turn']:.1f} degrees")
    information = entry.get("information")
    if isinstance(information, list) and len(information) == 2:
        parts.append(f"mutual information {information[0]:.2f} nats as it is, {information[1]:.2f} there")
    return ", ".join(parts) or "not measured"


def _part(entry: Any, name: str | None = None) -> Mapping[str, Any]:
    """A record's part, or nothing where it has none."""
    part = entry if name is None else entry.get(name)
    return part if isinstance(part, Mapping) else {}


def _words(value: Any) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


def volumes_ml(images: CaseImages, classes: Classes) -> dict[str, float]:
    """Millilitres of each predicted class; empty without a segmentation.

    Args:
        images: Of the case.
        classes: Label values by name.
    """
    if images.labels is None:
        return {}
    return volumes_of(images.labels, images.spacing, classes)


def visible_boundaries(images: CaseImages, names: Mapping[int, str]) -> dict[str, float]:
    """:func:`~fuse4seg.evaluation.visibility.visibility` on the fused image, of the true labels where there are some.

    Args:
        images: Of the case.
        names: Of the label values.

    Returns:
        Areas from .5 to 1 by "one|other"; empty where there are no labels or no boundary is long enough.
    """
    labels = images.labels if images.reference is None else images.reference
    if labels is None or not labels.any():
        return {}
    # The ring alone counts, and a whole body takes minutes.
    found = find_objects((labels > 0).astype(np.uint8))[0]
    around = tuple(slice(max(part.start - MARGIN, 0), part.stop + MARGIN) for part in found)
    classes = {name: value for value, name in names.items()}
    return visibility(images.fused[(slice(None), *around)], labels[around], images.inside[around], classes=classes)


def scores(images: CaseImages, classes: Classes, *, ignored: int | None = None) -> dict[str, Scores]:
    """Dice and HD95 of each class; empty without true labels.

    Args:
        images: Of the case.
        classes: Label values by name.
        ignored: Value of the true labels that is not scored.
    """
    if images.labels is None or images.reference is None:
        return {}
    return {name: score_class(images.labels, images.reference, entry, spacing=images.spacing, ignored=ignored)
            for name, entry in classes.items()}

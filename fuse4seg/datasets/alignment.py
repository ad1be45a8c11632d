"""Whether the channels of a case show the same place: each against the reference modality, by mutual information."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import SimpleITK as sitk

from fuse4seg.datasets.dataset_json import REFERENCE, channel_names
from fuse4seg.datasets.raw import Case
from fuse4seg.datasets.rigid import QUICK, Rigid, register, small_copy
from fuse4seg.plans import OURS

#: An image is suspect that fits better more than so many voxels of the reference away, and by this part of the information.
MOST_OFF, LEAST_GAIN = 1.0, 0.02
#: Or that tells less than the dataset's median by more than so many standard deviations, estimated from at least so many cases.
FAR_BELOW, FEWEST_CASES = 5.0, 10
#: In the fingerprint and in plans: what :func:`usual_information` gives of the dataset.
INFORMATION = "information_on_reference"


@dataclass(frozen=True)
class Alignment:
    """Where a modality lies against the reference one.

    Attributes:
        shift: Millimetres along x, y, z by which it fits best elsewhere, as :class:`~fuse4seg.datasets.rigid.Rigid` has it.
        turn: Degrees by which it fits best when turned.
        information: Mutual information in nats as given, and there.
        suspect: Whether someone should look.
    """

    shift: tuple[float, float, float]
    turn: float
    information: tuple[float, float]
    suspect: bool

    def to_plain(self) -> dict[str, Any]:
        """As it stands in run.json."""
        return {"shift": [round(step, 2) for step in self.shift], "turn": round(self.turn, 2),
                "information": [round(told, 4) for told in self.information], "suspect": self.suspect}


def reference_channel(dataset_json: Mapping[str, Any]) -> int:
    """Number of the channel that the others are held against: ``reference_modality`` of dataset.json, else the first."""
    names = channel_names(dataset_json)
    wanted = dataset_json.get(REFERENCE)
    return names.index(wanted) if wanted in names else 0


def case_alignment(voxels: np.ndarray, spacing: Sequence[float], case: Case, *, dataset_json: Mapping[str, Any],
                   usual: Mapping[str, Mapping[str, float]] | None = None) -> dict[str, Alignment]:
    """Alignment of every modality of a case but the reference one.

    Args:
        voxels: Channels that the case has, one grid, shape (C, Z, Y, X); of 2D images Z is 1.
        spacing: Millimetres along Z, Y, X.
        case: Its files.
        dataset_json: Of the dataset.
        usual: From :func:`usual_information`; None or empty to compare with nothing.

    Returns:
        By the modalities' names. Those are left out that nothing can be told of, that are absent, or that a picture in colour
        holds together with the reference; all where the reference is absent.
    """
    reference, names = reference_channel(dataset_json), channel_names(dataset_json)
    there = [number for number, found in enumerate(case.found) if found]
    if reference not in there:
        return {}
    others = [number for number in there if case.images[number] != case.images[reference]]
    found = alignments(voxels[there.index(reference)], [voxels[there.index(number)] for number in others], spacing)
    return compared({names[number]: judged(rigid) for number, rigid in zip(others, found, strict=True) if rigid is not None},
                    usual or {})


def alignments(reference: np.ndarray, others: Sequence[np.ndarray], spacing: Sequence[float]) -> list[Rigid | None]:
    """Where images on one grid lie against a reference image; None where nothing can be told.

    Args:
        reference: Shape (Z, Y, X).
        others: Of the same shape.
        spacing: Millimetres along these axes.

    Example:
        >>> from fuse4seg.datasets.phantom import make_phantom
        >>> phantom = make_phantom(0)
        >>> far, = alignments(phantom.images[1], [np.roll(phantom.images[3], 3, axis=0)], phantom.spacing)
        >>> [round(step) for step in far.shift], judged(far).suspect
        ([0, 0, 3], True)
    """
    fixed = _copy(reference, spacing)
    return [register(fixed, _copy(other, spacing), voxel=spacing[::-1]) for other in others]


def judged(rigid: Rigid) -> Alignment:
    """Whether an image is suspect because it fits better elsewhere."""
    given, best = rigid.information
    return Alignment(rigid.shift, rigid.turn, rigid.information, rigid.off > MOST_OFF and best > (1 + LEAST_GAIN) * given)


def compared(found: Mapping[str, Alignment], usual: Mapping[str, Mapping[str, float]]) -> dict[str, Alignment]:
    """Alignment of a case, suspect also where a modality tells far less of the reference one than in the dataset.

    Args:
        found: By modality.
        usual: From :func:`usual_information`.
    """
    return {name: replace(one, suspect=one.suspect or _is_far_below(one.information[0], usual.get(name)))
            for name, one in found.items()}


def _is_far_below(information: float, usual: Mapping[str, float] | None) -> bool:
    return usual is not None and information < usual["median"] - FAR_BELOW * usual["deviation"]


def usual_information(cases: Sequence[Mapping[str, Alignment]]) -> dict[str, dict[str, float]]:
    """Median of the information as given, and its standard deviation by the median absolute one, by modality.

    Args:
        cases: From :func:`case_alignment`.

    Returns:
        Modalities that at least FEWEST_CASES cases have.
    """
    from scipy.stats import median_abs_deviation  # takes its time to be imported, and predictions do without

    told: dict[str, list[float]] = {}
    for case in cases:
        for name, alignment in case.items():
            told.setdefault(name, []).append(alignment.information[0])
    return {name: {"median": float(np.median(values)), "deviation": float(median_abs_deviation(values, scale="normal"))}
            for name, values in told.items() if len(values) >= FEWEST_CASES}


def planned_information(plans: Mapping[str, Any]) -> dict[str, Mapping[str, float]]:
    """What plans, which may be a stranger's, say of the dataset; nothing where they say something else."""
    told = plans.get(OURS, {}).get(INFORMATION)
    numbers = ("median", "deviation")
    return {name: usual for name, usual in (told.items() if isinstance(told, dict) else ())
            if isinstance(usual, dict) and all(isinstance(usual.get(number), (int, float)) for number in numbers)}


def suspicion(found: Mapping[str, Alignment], reference: str) -> str | None:
    """What is suspect in a case, in words; None if nothing is.

    Example:
        >>> suspicion({"FLAIR": Alignment((3.2, 0.1, -0.4), 2.04, (0.31, 0.62), True)}, "T1ce")
        'FLAIR fits T1ce better 3.2 mm and 2.0 degrees off where it lies (information 0.31, there 0.62)'
    """
    words = [f"{name} fits {reference} better {np.linalg.norm(one.shift):.1f} mm and {one.turn:.1f} degrees off where it lies "
             f"(information {one.information[0]:.2f}, there {one.information[1]:.2f})"
             for name, one in found.items() if one.suspect]
    return ", ".join(words) or None


def _copy(voxels: np.ndarray, spacing: Sequence[float]) -> sitk.Image:
    image = sitk.GetImageFromArray(np.asarray(voxels, np.float32))
    image.SetSpacing([float(step) for step in spacing[::-1]])
    return small_copy(image, QUICK)

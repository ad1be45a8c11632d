"""How many misaligned modalities are found, how many cases are suspected as they are, and what f4s_register leaves.

Each modality of each case but the reference one is shifted by 2 to 6 voxels in any direction, or turned by 2 to 6 degrees about
any axis, or both, and looked at as f4s_predict does.

Example:
    python benchmarks/alignment.py DATASET/imagesTr --reference 1 -o alignment.json
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import SimpleITK as sitk
from timing import save

from fuse4seg.cli.command import make_parser, run_command
from fuse4seg.progress import progress

KINDS = ("shift", "turn", "both")
LEAST, MOST = 2.0, 6.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    parser = make_parser("Misalign cases, and count what is found and what is repaired.",
                         example="python benchmarks/alignment.py imagesTr --reference 1 -o alignment.json")
    parser.add_argument("folder", type=Path, help="of CASE_0000, CASE_0001, ... files")
    parser.add_argument("--reference", type=int, default=0, help="number of the reference modality (default: %(default)s)")
    parser.add_argument("--every", type=int, default=1, help="take every so manieth case (default: %(default)s)")
    parser.add_argument("--repair", action="store_true", help="also register each, and measure what is left")
    parser.add_argument("--masked", action="store_true", help="what left the modality's own foreground is 0, as if a brain was "
                                                              "extracted by another modality's mask before")
    parser.add_argument("--seed", type=int, default=0, help="of the movements (default: %(default)s)")
    parser.add_argument("-o", dest="output", type=Path, help="JSON file of the result")
    return run_command(_run, parser, arguments)


def _run(options: argparse.Namespace) -> None:
    from fuse4seg.inference.register_folder import _numbered, _read

    rows = []
    for number, (case, files) in enumerate(progress(list(_numbered(options.folder).items())[::options.every], "cases")):
        images = {channel: _read(path) for channel, path in files.items()}
        rng = np.random.default_rng([options.seed, number])
        rows += examine(case, images, options.reference, rng, repair=options.repair, masked=options.masked)
    result = {"summary": summarised(rows), "rows": rows, "folder": options.folder.name, "reference": options.reference,
              "seed": options.seed, "masked": options.masked}
    for name, value in result["summary"].items():
        print(f"{name}: {value}")
    save(result, options.output)


def examine(case: str, images: dict[int, sitk.Image], reference: int, rng: np.random.Generator, *, repair: bool = False,
            masked: bool = False) -> list[dict[str, Any]]:
    """A row for each modality as it is and for each kind of movement."""
    from fuse4seg.datasets.alignment import alignments, judged

    fixed, rows = images[reference], []
    for channel, image in images.items():
        if channel == reference:
            continue
        for kind in ("as it is", *KINDS):
            true = still(fixed) if kind == "as it is" else movement(fixed, kind, rng)
            shown = image if kind == "as it is" else displaced(image, true, masked=masked)
            given = [_volume(one) for one in (fixed, shown)]
            rigid, = alignments(given[0], given[1:], _spacing(fixed))
            found = rigid is not None and judged(rigid).suspect
            row = {"case": case, "channel": channel, "kind": kind, "found": found,
                   "off": rigid and rigid.off, "information": rigid and rigid.information}
            rows.append({**row, "left": left(fixed, shown, true)} if repair and kind != "as it is" else row)
    return rows


def movement(image: sitk.Image, kind: str, rng: np.random.Generator) -> sitk.Euler2DTransform | sitk.Euler3DTransform:
    """A movement by LEAST to MOST voxels, or degrees about the middle, or both, in a direction that is drawn."""
    transform, axes = still(image), image.GetDimension()
    direction, axis = (vector / np.linalg.norm(vector) for vector in rng.normal(size=(2, axes)))
    shift, turn = rng.uniform(LEAST, MOST, 2)
    if kind != "turn":
        voxels = direction * shift * image.GetSpacing()
        transform.SetTranslation((np.reshape(image.GetDirection(), (axes, axes)) @ voxels).tolist())
    if kind != "shift" and axes == 2:
        transform.SetAngle(float(np.sign(axis[0]) * np.deg2rad(turn)))
    elif kind != "shift":
        transform.SetMatrix(sitk.VersorTransform(axis.tolist(), float(np.deg2rad(turn))).GetMatrix())
    return transform


def still(image: sitk.Image) -> sitk.Euler2DTransform | sitk.Euler3DTransform:
    """No movement, about the middle of an image."""
    transform = sitk.Euler2DTransform() if image.GetDimension() == 2 else sitk.Euler3DTransform()
    transform.SetCenter(image.TransformContinuousIndexToPhysicalPoint([(extent - 1) / 2 for extent in image.GetSize()]))
    return transform


def displaced(image: sitk.Image, transform: sitk.Transform, *, masked: bool) -> sitk.Image:
    """The image as it would be had the patient moved so."""
    from fuse4seg.datasets.rigid import moved

    shown = moved(image, image, transform)
    return sitk.Mask(shown, sitk.NotEqual(image, 0)) if masked else shown


def left(fixed: sitk.Image, shown: sitk.Image, true: sitk.Transform) -> dict[str, float]:
    """Voxels by which the body still lies elsewhere once registered: its middle, and on the average of its points."""
    from fuse4seg.inference.register_folder import CLOSE, QUICK, _found, judged

    rigid = _found(fixed, shown, QUICK)
    if rigid is not None and judged(rigid).suspect:
        rigid = _found(fixed, shown, CLOSE)
        turned = rigid.transform
    else:
        turned = still(fixed)
    points = np.argwhere(sitk.GetArrayViewFromImage(fixed) != 0)[:, ::-1]
    points = points[::max(1, len(points) // 500)]
    places = [fixed.TransformContinuousIndexToPhysicalPoint(point) for point in [points.mean(axis=0).tolist(), *points.tolist()]]
    ends = np.array([true.TransformPoint(turned.TransformPoint(place)) for place in places]) - places
    axes = fixed.GetDimension()
    voxels = np.linalg.norm(ends @ np.reshape(fixed.GetDirection(), (axes, axes)) / fixed.GetSpacing(), axis=1)
    return {"shift": float(voxels[0]), "mean": float(voxels[1:].mean())}


def summarised(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Shares of images found, and of cases that are suspected as they are; medians of what registering left, in voxels."""
    summary: dict[str, Any] = {}
    for kind in KINDS:
        found = [row["found"] for row in rows if row["kind"] == kind]
        summary[f"found, {kind}"] = sum(found) / len(found)
    found = [row["found"] for row in rows if row["kind"] in KINDS]
    summary["found"], summary["images"] = sum(found) / len(found), len(found) // len(KINDS)
    suspected = {row["case"] for row in rows if row["kind"] == "as it is" and row["found"]}
    cases = {row["case"] for row in rows}
    summary["false alarms"], summary["cases"] = len(suspected) / len(cases), len(cases)
    remains = [row["left"] for row in rows if "left" in row]
    if remains:
        summary.update({f"left, {what}": float(np.median([one[what] for one in remains])) for what in ("shift", "mean")})
    return summary


def _volume(image: sitk.Image) -> np.ndarray:
    voxels = sitk.GetArrayFromImage(image).astype(np.float32)
    return voxels if voxels.ndim == 3 else voxels[None]


def _spacing(image: sitk.Image) -> list[float]:
    return [1.0, *image.GetSpacing()][::-1][:3] if image.GetDimension() == 2 else list(image.GetSpacing()[::-1])


if __name__ == "__main__":
    sys.exit(main())

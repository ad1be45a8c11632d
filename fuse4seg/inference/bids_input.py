"""A BIDS dataset in, a BIDS derivative out.

Source: Brain Imaging Data Structure 1.10, "BIDS Derivatives" and "Imaging data types",
https://bids-specification.readthedocs.io.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from fuse4seg import __version__
from fuse4seg.datasets.bids import DESCRIPTION, BidsCase, bids_cases, write_bids_case
from fuse4seg.datasets.brain import is_skull_stripped
from fuse4seg.datasets.dataset_json import IGNORE as IGNORED
from fuse4seg.datasets.nifti import NIFTI
from fuse4seg.errors import OptionError
from fuse4seg.files import make_writable_folder, write_json, written_whole
from fuse4seg.inference.export_case import FUSED
from fuse4seg.inference.predict_input import Job

VERSION = "1.10.0"
#: Entity ``desc`` of segmentations and of fused images.
SEGMENTED, FUSED_AS = "fuse4seg", "fused"
#: How BIDS names the dataset that images come from.
RAW = "raw"
IGNORE = ".bidsignore"
#: What f4s_predict writes beside, in the pattern of .gitignore: no part of the derivative.
BESIDE = ("/*.nii.gz", "/*.nii", "/*.npz", "/*.pkl", "/run*.json", "/plans.json", "/dataset.json",
          "/missing_modalities.json", "/f4s_outputs.json", "/*.html", "/fused/", "/panels/", "/attention/",
          "/probabilities/", "/uncertainty/", "/alignment/", "/report/", "/previous_stage/")
#: Entities in the standard's order that stay, where all sources of a case have them in common.
ENTITIES = ("sub", "ses", "task", "acq", "rec", "run", "space")


class BidsInput:
    """Subjects and sessions of a dataset, see :class:`~fuse4seg.inference.predict_input.Source`.

    Attributes:
        faults: Why some are no cases, by name.

    Raises:
        OptionError: The model's format is not NIfTI.
        As :func:`~fuse4seg.datasets.bids.bids_cases`.
    """

    def __init__(self, root: Path, job: Job) -> None:
        self._root, self._job, self._ending = root, job, job.description.file_ending
        if self._ending not in NIFTI:
            raise OptionError("-i", f"{root} is a BIDS dataset, of NIfTI files, and the model reads *{self._ending}. "
                                    "Choose another model with -d or -c.")
        self._cases, self.faults = bids_cases(root, job.channels, reference=job.reference,
                                              allow_missing=job.allow_missing)

    @property
    def cases(self) -> Iterable[str]:
        """Names, in order."""
        return self._cases

    @property
    def folders(self) -> set[Path]:
        """Where the images lie."""
        return {case.folder for case in self._cases.values()}

    @property
    def outputs(self) -> list[str]:
        """Files of the derivative."""
        files = [path for case in self._cases.values() for path in self._files(case).values()]
        endings = (self._ending, ".json", ".tsv")
        return [DESCRIPTION, IGNORE, *(f"{path}{ending}" for path in files for ending in endings)]

    def write(self, case: str, folder: Path) -> None:
        """Put a case's volumes into a folder, on the grid of the reference."""
        write_bids_case(self._cases[case], self._job.channels, folder, self._ending)

    def give_back(self, case: str) -> None:
        """Give a case's segmentation and fused images names by the standard, with what it wants to be told of them."""
        found, output = self._cases[case], self._job.output
        uris = [image and f"bids:{RAW}:{image.path.relative_to(self._root).as_posix()}" for image in found.images]
        told = {"Sources": [uri for uri in uris if uri], "SpatialReference": uris[found.reference]}
        for made, path in self._files(found).items():
            image = output / f"{made}{self._ending}"
            make_writable_folder((output / path).parent)
            _put(image, output / f"{path}{self._ending}")
            if path.endswith("_dseg"):
                further = {"Description": "Segmentation by Fuse4Seg", "Manual": False}
                _write_labels(output / f"{path}.tsv", self._job.description.dataset_json)
            else:
                names = (name for name, there in zip(self._job.channels, uris, strict=True) if there)
                further = {"Description": f"The image that Fuse4Seg made of {', '.join(names)}, and segmented",
                           "SkullStripped": _is_stripped(image)}
            write_json({**further, **told}, output / f"{path}.json")

    def finish(self) -> None:
        """Describe the derivative."""
        output = self._job.output
        raw = os.path.relpath(self._root.resolve(), output.resolve())
        write_json({"Name": "Fuse4Seg", "BIDSVersion": VERSION, "DatasetType": "derivative",
                    "GeneratedBy": [{"Name": "Fuse4Seg", "Version": __version__, "Description": self._job.record.model}],
                    "DatasetLinks": {RAW: Path(raw).as_posix()}}, output / DESCRIPTION)
        with written_whole(output / IGNORE) as temporary:
            members = self._job.record.made_by["options"].get("members", ())  # of an ensemble, each in a folder of its own
            temporary.write_text("".join(f"{pattern}\n" for pattern in (*BESIDE, *(f"/{member}/" for member in members))))

    def _files(self, case: BidsCase) -> dict[str, str]:
        """By what f4s_predict writes, names of the derivative; both relative to the output and without their ending."""
        images = [image for image in case.images if image is not None]
        common = {name: images[0].entities[name] for name in ENTITIES
                  if len({image.entities.get(name) for image in images}) == 1 and name in images[0].entities}
        named = "_".join(f"{name}-{label}" for name, label in common.items())
        stem = (case.folder.relative_to(self._root) / named).as_posix()
        suffix, folds = case.images[case.reference].suffix, self._job.folds
        files = {case.name: f"{stem}_desc-{SEGMENTED}_dseg"} if self._job.description.segments else {}
        for fold in folds:
            place, one = (FUSED, "") if len(folds) == 1 else (f"{FUSED}/fold_{fold}", f"Fold{str(fold).capitalize()}")
            files[f"{place}/{case.name}"] = f"{stem}_desc-{FUSED_AS}{one}_{suffix}"
        return files


def _put(made: Path, path: Path) -> None:
    """A second name for a file, or a copy where the file system has no such links."""
    with written_whole(path) as temporary:
        try:
            temporary.hardlink_to(made)
        except OSError:
            shutil.copyfile(made, temporary)


def _write_labels(path: Path, dataset_json: Mapping[str, Any]) -> None:
    """What the values of a segmentation mean; of regions, which value each becomes."""
    order = iter(dataset_json.get("regions_class_order", ()))
    names = {name: value for name, value in dataset_json["labels"].items() if name != IGNORED}
    if any(isinstance(value, list) for value in names.values()):
        names = {name: 0 if name == "background" else next(order) for name in names}
    rows = sorted((value, name) for name, value in names.items())
    with written_whole(path) as temporary:
        temporary.write_text("index\tname\n" + "".join(f"{value}\t{' '.join(name.split())}\n" for value, name in rows),
                             encoding="utf-8")


def _is_stripped(fused: Path) -> bool:
    """Whether a fused image shows a brain alone: it is 0 where all of its sources are."""
    voxels = sitk.GetArrayFromImage(sitk.ReadImage(str(fused)))
    return is_skull_stripped(np.moveaxis(voxels, -1, 0) if voxels.ndim == 4 else voxels[None])

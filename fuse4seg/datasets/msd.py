"""Tasks of the Medical Segmentation Decathlon as raw datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import SimpleITK as sitk

from fuse4seg.datasets.images import is_stored_finite, require_whole
from fuse4seg.datasets.nifti import give_header_back, header_of, itk_header, readable_by_itk
from fuse4seg.datasets.raw_writer import describe, new_raw_dataset, place, require_new
from fuse4seg.errors import DatasetJsonError, Fuse4SegError, UnreadableImageError, UnsuitableImageError
from fuse4seg.files import read_json
from fuse4seg.progress import progress

ENDING = ".nii.gz"


def convert_msd(source: Path, dataset_id: int, *, name: str = "", copy: bool = False, processes: int = 1) -> None:
    """Write a raw dataset: 4D images are split into their channels, others and labels linked.

    Args:
        source: Folder of a task, with its dataset.json.
        dataset_id: Of the new dataset.
        name: Its name; the task's own by default.
        copy: Copy instead of linking.
        processes: Cases examined at a time.

    Raises:
        DatasetJsonError: The task's dataset.json cannot be used.
        UnreadableImageError, UnsuitableImageError: An image cannot be read, holds NaN, or has not a channel per modality.
        DuplicateCaseError: Two cases have one name.
        FaultyDatasetError: Cases cannot be trained on; one line each.
        As :func:`~fuse4seg.datasets.raw_writer.new_raw_dataset`.
    """
    task = _read_task(source / "dataset.json")
    channels = [str(task["modality"][number]) for number in sorted(task["modality"], key=int)]
    if len(set(map(str, task["labels"].values()))) < len(task["labels"]):
        raise DatasetJsonError(source / "dataset.json", "gives two labels one name. Rename one.")
    labels = {str(label): int(value) for value, label in task["labels"].items()}
    training = [(source / entry["image"], source / entry["label"]) for entry in task["training"]]
    tests = [source / entry for entry in task.get("test", []) if isinstance(entry, str)]
    with new_raw_dataset(dataset_id, name or str(task.get("name", "MSD"))) as folder:
        for image, label in progress(training, "converting training cases", unit="case"):
            _split(image, folder / "imagesTr", len(channels), copy=copy)
            if not label.is_file():
                raise UnreadableImageError(label, "it does not exist")
            place(label, folder / "labelsTr" / f"{_case(label)}{ENDING}", copy=copy)
        for image in progress([path for path in tests if path.is_file()], "converting test cases", unit="case"):
            _split(image, folder / "imagesTs", len(channels), copy=copy)
        describe(folder, channels=channels, labels={"background": 0} | labels, training=len(training), ending=ENDING,
                 processes=processes)


def _read_task(path: Path) -> dict[str, Any]:
    def unusable(path: Path, problem: str = "is missing") -> Fuse4SegError:
        return DatasetJsonError(path, f"{problem}. Give the folder of a Decathlon task.")

    task = read_json(path, unusable)
    try:
        entries = task["training"]
        sound = all(isinstance(entry["image"], str) and isinstance(entry["label"], str) for entry in entries)
        known = all(str(int(number)) for group in (task["modality"], task["labels"]) for number in group)
    except (KeyError, TypeError, ValueError) as error:
        raise unusable(path, "lacks modality, labels or training, or holds something else there") from error
    if not (entries and sound and known):
        raise unusable(path, "names no training cases")
    return task


def _case(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".nii")


def _split(path: Path, folder: Path, channels: int, *, copy: bool) -> None:
    try:
        require_whole(path)
        if not is_stored_finite(path):
            raise UnsuitableImageError(path, "holds NaN or infinite intensities. Replace them by numbers.")
        with readable_by_itk([path]) as (file,):
            _split_readable(path, file, folder, channels, copy=copy)
    except (RuntimeError, OSError) as error:
        raise UnreadableImageError(path, str(error).strip().splitlines()[-1][:160]) from error


def _split_readable(path: Path, file: Path, folder: Path, channels: int, *, copy: bool) -> None:
    reader = itk_header(file)
    size = reader.GetSize()
    found = size[3] if len(size) == 4 else 1
    if found != channels:
        raise UnsuitableImageError(path, f"holds {found} channels, dataset.json names {channels} modalities. Correct it.")
    if len(size) == 3:
        place(path, folder / f"{_case(path)}_0000{ENDING}", copy=copy)
        return
    whole, header = reader.Execute(), header_of(path)
    folder.mkdir(exist_ok=True)
    for number in range(channels):
        part = sitk.Extract(whole, [*size[:3], 0], [0, 0, 0, number])
        made = folder / f"{_case(path)}_{number:04d}{ENDING}"
        require_new(path, made)
        sitk.WriteImage(part, str(made), useCompression=True)
        give_header_back(made, header)

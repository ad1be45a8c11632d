"""Harvard's pairs of MRI and CT, PET or SPECT as a raw dataset without labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fuse4seg.case_faults import fault_of
from fuse4seg.datasets.dataset_json import NO_LABELS, NORMALISATION
from fuse4seg.datasets.raw_writer import describe, new_raw_dataset, place_pictures
from fuse4seg.datasets.sources import find_sources
from fuse4seg.errors import FaultyCasesError, PairsNotFoundError
from fuse4seg.progress import progress

MRI, OTHER = "MRI", "other"
PARTS = {"train": "imagesTr", "val": "imagesTs", "test": "imagesTs", "": "imagesTr"}
WANTED = "folder MRI beside that of another modality, nor train/MRI or val/MRI"


@dataclass(frozen=True)
class Pairs:
    """A folder with MRI and one other modality.

    Attributes:
        modality: The other one.
        part: train, val, test, or nothing where the set is not divided.
        folder: Holds the folders of both.
    """

    modality: str
    part: str
    folder: Path


def convert_harvard(source: Path, dataset_id: int, *, name: str = "Harvard", copy: bool = False, processes: int = 1) -> None:
    """Write a raw dataset of MRI and the other modality: grey pictures are linked, of those in colour the luma is written.

    Args:
        source: One set (train/MRI, train/CT, val/MRI, ..., or MRI and CT at once), or a folder of several, which are joined.
        dataset_id: Of the new dataset.
        name: Its name.
        copy: Copy grey pictures instead of linking them.
        processes: Cases examined at a time.

    Raises:
        PairsNotFoundError: There are no such folders.
        UnpairedCasesError: Names differ between two folders.
        FaultyCasesError: Pictures cannot be used; one line each.
        As :func:`~fuse4seg.datasets.raw_writer.new_raw_dataset`.
    """
    found = find_pairs(source)
    modalities = sorted({pairs.modality for pairs in found})
    several = len(modalities) > 1
    with new_raw_dataset(dataset_id, name) as folder:
        faults, training = [], 0
        for pairs in found:
            sources = find_sources([pairs.folder / MRI, pairs.folder / pairs.modality])
            target, doing = folder / PARTS[pairs.part], f"converting {pairs.modality} {pairs.part}".strip()
            for case, files in progress(list(sources.images.items()), doing, unit="case"):
                try:
                    place_pictures(files, target, f"{pairs.modality}_{case}" if several else case, copy=copy)
                    training += target.name == "imagesTr"
                except Exception as error:  # noqa: BLE001 (what is no fault of the case is raised again)
                    faults.append(str(fault_of(error, case)))
        if faults:
            raise FaultyCasesError(faults, nothing_written=True)
        # Pictures have a scale of their own: black is 0, white 255.
        describe(folder, channels=[MRI, OTHER if several else modalities[0]], labels=NO_LABELS, training=training, ending=".png",
                 processes=processes, **{NORMALISATION: {"0": "rgb_to_0_1", "1": "rgb_to_0_1"}})


def find_pairs(source: Path) -> list[Pairs]:
    """Folders of pairs in a set, or in a folder of sets.

    Raises:
        PairsNotFoundError: There are none.
    """
    for places in ([source], sorted(path for path in source.glob("*") if path.is_dir())):
        found = [Pairs(other.name, part, place / part) for place in places for part in PARTS
                 if (place / part / MRI).is_dir() for other in _others(place / part)]
        if found:
            return found
    raise PairsNotFoundError(source, WANTED)


def _others(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and path.name not in (MRI, *PARTS))

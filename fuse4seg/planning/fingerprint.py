"""Dataset fingerprint: nnU-Net's own, plus the intensity window of each channel and the volumes of labels."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero

from fuse4seg.background import in_background
from fuse4seg.case_faults import fault_of
from fuse4seg.datasets.alignment import (
    INFORMATION,
    Alignment,
    case_alignment,
    compared,
    reference_channel,
    suspicion,
    usual_information,
)
from fuse4seg.datasets.dataset_json import IGNORE, channel_names, foreground_classes, is_labelled, read_raw_dataset_json
from fuse4seg.datasets.images import find_reader, given_to
from fuse4seg.datasets.integrity import check_dataset
from fuse4seg.datasets.presence import with_absent
from fuse4seg.datasets.raw import Case, training_cases
from fuse4seg.errors import FingerprintNotFoundError, NoForegroundError
from fuse4seg.evaluation.volumes import FINGERPRINT, VOLUMES, are_volumes, volumes_of
from fuse4seg.files import make_writable_folder, read_json, write_json
from fuse4seg.paths import PREPROCESSED, RAW, data_root, dataset_name
from fuse4seg.planning.foreground import Draws, draw_foreground, foreground_statistics
from fuse4seg.planning.windows import (
    VOXELS_PER_CHANNEL,
    Samples,
    Scheme,
    intensity_windows,
    mask_choices,
    normalisation_schemes,
    sample_tissue,
)
from fuse4seg.progress import progress

logger = logging.getLogger(__name__)

WINDOWS = "intensity_windows_per_channel"
#: False where the foreground is all tissue, for want of labels; left out where it is that of labels.
LABELLED = "labelled"
#: How many cases have each channel; left out where all have all.
CASES_WITH = "cases_with_channel"
#: Beside the fingerprint: where the modalities of each case lie. Apart, as fingerprints are shared with models.
ALIGNMENT_FILE = "alignment.json"
#: Cases, spread evenly over the dataset, whose alignment is examined: of thousands it would take longer than all the rest.
MOST_EXAMINED = 100
#: nnU-Net normalises inside the nonzero mask where cropping leaves less than this of the median case.
MASK_BELOW_RELATIVE_SIZE = 3 / 4


@dataclass(frozen=True)
class CaseSummary:
    """What the fingerprint needs of one case.

    Attributes:
        shape: Voxels along each axis after cropping to nonzero.
        spacing: Millimetres between voxels.
        relative_size: Share of the voxels that cropping left.
        foreground: Drawn raw foreground intensities per channel; of all tissue in a case without a label; none of an absent one.
        tissue: Drawn normalised tissue intensities per channel; none of an absent one.
        volumes: Millilitres of each label or region by its name; none of a case without a label.
        alignment: Where the modalities lie, by their names.
    """

    shape: list[int]
    spacing: list[float]
    relative_size: float
    foreground: list[Draws]
    tissue: list[Samples]
    volumes: dict[str, float]
    alignment: dict[str, Alignment] = field(default_factory=dict)


def extract_fingerprint(dataset: str | int, *, processes: int, overwrite: bool = True, check: bool = True,
                        allow_missing: bool = False) -> dict[str, Any]:
    """Write dataset_fingerprint.json of a raw dataset into its preprocessed folder.

    Args:
        dataset: Id or full name.
        processes: Cases read at a time; with 1, in this process.
        overwrite: Extract anew even if there is a fingerprint that fits the dataset.
        check: Examine all cases first.
        allow_missing: Cases may lack channels, whatever dataset.json says.

    Returns:
        The fingerprint.

    Raises:
        FaultyDatasetError: The check found faulty cases.
        FaultyImageError: A case cannot be analysed.
        DatasetJsonError: dataset.json cannot be used, or gives a channel that no case has.
        NoForegroundError: No label holds any foreground, or none of the cases that have one of the channels.
        WorkerDiedError: A process ended without an answer.
        UnwritableFolderError: The preprocessed folder cannot be written.
    """
    name = dataset_name(dataset, variables=(RAW,))
    folder = data_root(RAW) / name
    description = read_raw_dataset_json(folder, allow_missing=allow_missing)
    make_writable_folder(data_root(PREPROCESSED) / name)
    if check:
        check_dataset(folder, processes=processes, allow_missing=allow_missing)
    training_cases(folder, description)
    return Fuse4SegFingerprintExtractor(name, processes, allow_missing=allow_missing).run(overwrite_existing=overwrite)


def read_fingerprint(path: Path) -> dict[str, Any]:
    """Content of a fingerprint with windows.

    Raises:
        FingerprintNotFoundError: It is missing, cannot be read, or is nnU-Net's own.
    """
    fingerprint = read_json(path, FingerprintNotFoundError)
    if not isinstance(fingerprint, dict) or WINDOWS not in fingerprint:
        raise FingerprintNotFoundError(path, "has no intensity windows, so it was not made by Fuse4Seg")
    faulty = [entry for entry, is_sound in SOUND.items() if not is_sound(fingerprint.get(entry))]
    if faulty:
        raise FingerprintNotFoundError(path, f"has no usable {', '.join(faulty)}")
    return fingerprint


def _are_triples(entry: Any) -> bool:
    """Whether this can be spacings or shapes: a list of three numbers above 0 for each case."""
    return isinstance(entry, list) and bool(entry) and all(
        isinstance(triple, list) and len(triple) == 3 and all(_is_number(value) and value > 0 for value in triple)
        for triple in entry)


def _are_windows(entry: Any) -> bool:
    return isinstance(entry, dict) and all(
        isinstance(window, dict) and all(_is_number(window.get(end)) for end in ("low", "high")) for window in entry.values())


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


#: What planning and doubt take from a fingerprint, and how each entry has to be.
SOUND = {WINDOWS: _are_windows, "spacings": _are_triples, "shapes_after_crop": _are_triples,
         "foreground_intensity_properties_per_channel": lambda entry: isinstance(entry, dict), VOLUMES: are_volumes}


class Fuse4SegFingerprintExtractor(DatasetFingerprintExtractor):
    """nnU-Net's extractor, whose fingerprint also holds windows and volumes; every case is read once.

    Args:
        dataset_name_or_id: Of a raw dataset.
        num_processes: Cases read at a time.
        verbose: nnU-Net's.
        allow_missing: Cases may lack channels, whatever dataset.json says.
    """

    def __init__(self, dataset_name_or_id: str | int, num_processes: int = 8, verbose: bool = False, *,
                 allow_missing: bool = False) -> None:
        super().__init__(dataset_name_or_id, num_processes, verbose)
        folder = Path(self.input_folder)
        # nnU-Net counts hidden files for cases, too.
        cases = training_cases(folder, read_raw_dataset_json(folder, allow_missing=allow_missing))
        self.dataset = {name: {"images": case.images, "present": case.found, "label": case.label} for name, case in cases.items()}

    def run(self, overwrite_existing: bool = False) -> dict[str, Any]:
        """Extract and write the fingerprint; one that fits the dataset is kept unless ``overwrite_existing``."""
        path = data_root(PREPROCESSED) / self.dataset_name / FINGERPRINT
        kept = None if overwrite_existing else self._fitting_fingerprint(path)
        if kept is not None:
            logger.info("%s is kept", path)
            return kept
        schemes = normalisation_schemes(self.dataset_json)
        found = self._cases_with_channel
        if min(found) < len(self.dataset):
            logger.info("%s", ", ".join(f"{name} in {count} of {len(self.dataset)} cases" for name, count in
                                        zip(channel_names(self.dataset_json), found, strict=True)))
        cases = self._summarise_cases(schemes)
        fingerprint = build_fingerprint(cases, dataset=self.dataset_name, schemes=schemes)
        if not self._labelled:
            fingerprint[LABELLED] = False
        if min(found) < len(self.dataset):
            fingerprint[CASES_WITH] = found
        make_writable_folder(path.parent)
        self._tell_alignment({name: case.alignment for name, case in zip(self.dataset, cases, strict=True)},
                             fingerprint.get(INFORMATION, {}), path.with_name(ALIGNMENT_FILE))
        write_json(fingerprint, path)
        return fingerprint

    def _tell_alignment(self, cases: Mapping[str, Mapping[str, Alignment]], usual: Mapping[str, Mapping[str, float]],
                        path: Path) -> None:
        """Write down where the modalities lie, and name the cases in which some seem to lie apart."""
        reference = channel_names(self.dataset_json)[reference_channel(self.dataset_json)]
        judged = {name: compared(found, usual) for name, found in cases.items() if found}
        write_json({"reference": reference, "cases": {name: {modality: one.to_plain() for modality, one in found.items()}
                                                      for name, found in judged.items()}}, path)
        said = {name: words for name, found in judged.items() if (words := suspicion(found, reference))}
        for name, words in said.items():
            logger.warning("%s: %s", name, words)
        if said:
            logger.warning("%d of %d cases may be misaligned: look at them, and repair what is so with f4s_register", len(said),
                           len(judged))
        if len(cases) > MOST_EXAMINED:
            logger.info("alignment was examined in %d of %d cases; f4s_register examines all", len(judged), len(cases))

    def _fitting_fingerprint(self, path: Path) -> dict[str, Any] | None:
        try:
            fingerprint = read_fingerprint(path)
        except FingerprintNotFoundError:
            return None
        found = self._cases_with_channel
        fits = (len(fingerprint[WINDOWS]) == len(found)
                and len(fingerprint["spacings"]) == len(self.dataset)
                and fingerprint.get(CASES_WITH, [len(self.dataset)] * len(found)) == found
                and fingerprint.get(LABELLED, True) == self._labelled)
        return fingerprint if fits else None

    @property
    def _labelled(self) -> bool:
        return is_labelled(Path(self.input_folder), self.dataset_json)

    @property
    def _cases_with_channel(self) -> list[int]:
        return [sum(there) for there in zip(*(case["present"] for case in self.dataset.values()), strict=True)]

    def _summarise_cases(self, schemes: Sequence[Scheme]) -> list[CaseSummary]:
        count = len(self.dataset)
        examined = set(list(self.dataset)[::math.ceil(count / MOST_EXAMINED)])
        cases = {name: {**case, "examined": name in examined} for name, case in self.dataset.items()}
        images = (path for case in cases.values() for path in _files(case)[:1])
        # Where some voxels are ignored, nobody knows how large a label is.
        classes = {} if IGNORE in self.dataset_json["labels"] else foreground_classes(self.dataset_json)
        summarise = partial(summarise_case, reader=find_reader(self.dataset_json, images), schemes=schemes, classes=classes,
                            draws=int(self.num_foreground_voxels_for_intensitystats // count),
                            limit=max(1, VOXELS_PER_CHANNEL // count), dataset_json=self.dataset_json)
        return _summarise_all(summarise, cases, processes=self.num_processes)


def summarise_case(case: Mapping[str, Any], *, reader: type[BaseReaderWriter], schemes: Sequence[Scheme],
                   classes: Mapping[str, int | tuple[int, ...]], draws: int, limit: int,
                   dataset_json: dict[str, Any] | None = None) -> CaseSummary:
    """Read and analyse one case.

    Args:
        case: Its ``images``, one file per channel, which of them are ``present``, its ``label``, or None, and whether its
            alignment is ``examined``.
        reader: nnU-Net's reader of the dataset's files.
        schemes: nnU-Net's normalisation of each channel.
        classes: Label value, or values of a region, by name.
        draws: Foreground intensities to draw per channel.
        limit: Tissue voxels to draw per channel.
        dataset_json: Of the dataset; None to leave the alignment out.

    Raises:
        ValueError: The images hold NaN, or images and label do not belong together.
    """
    with given_to(reader, _files(case)) as files:
        images, properties = reader().read_images(list(map(str, files)))
    label = None
    if case["label"] is not None:
        with given_to(reader, [Path(case["label"])], labels=True) as files:
            label = reader().read_seg(str(files[0]))[0]
    if np.isnan(images).any() or (label is not None and np.isnan(label).any()):
        raise ValueError("its images or its label hold NaN")
    aligned = {} if dataset_json is None or not case["examined"] else case_alignment(
        images, properties["spacing"], Case("", tuple(map(Path, case["images"]))), dataset_json=dataset_json)
    cropped, segmentation, _ = crop_to_nonzero(with_absent(images, case["present"]), label)
    foreground = segmentation + 1 if label is None else segmentation  # 0 inside the nonzero mask, -1 outside
    volumes = {} if label is None else volumes_of(label[0], properties["spacing"], classes)
    # Of absent channels, too: what is drawn of the others is then that of the complete case.
    drawn = draw_foreground(cropped, foreground, draws=draws)
    tissue = sample_tissue(cropped, segmentation, schemes=schemes, limit=limit)
    for channel, there in enumerate(case["present"]):
        if not there:
            drawn[channel] = Draws(*(part[:0] for part in drawn[channel]))
            tissue[channel] = {masked: samples[:0] for masked, samples in tissue[channel].items()}
    return CaseSummary([int(extent) for extent in cropped.shape[1:]], [float(step) for step in properties["spacing"]],
                       float(np.prod(cropped.shape[1:]) / np.prod(images.shape[1:])), drawn, tissue, volumes, aligned)


def _files(case: Mapping[str, Any]) -> list[Path]:
    """The images that are there."""
    return [Path(path) for path, there in zip(case["images"], case["present"], strict=True) if there]


def build_fingerprint(cases: Sequence[CaseSummary], *, dataset: str, schemes: Sequence[Scheme]) -> dict[str, Any]:
    """Fingerprint of a dataset from its cases, as it stands in the file.

    Raises:
        NoForegroundError: No label holds any foreground, or none of the cases that have one of the channels.
    """
    unknown = [channel for channel in range(len(schemes)) if not any(len(case.foreground[channel].counts) for case in cases)]
    if unknown:
        where = f" in the cases that have channel {unknown[0]}" if len(unknown) < len(schemes) else ""
        raise NoForegroundError(dataset, where)
    relative_size = float(np.median([case.relative_size for case in cases]))
    masked = relative_size < MASK_BELOW_RELATIVE_SIZE
    statistics = {str(channel): foreground_statistics([case.foreground[channel] for case in cases])
                  for channel in range(len(schemes))}
    return {
        "spacings": [case.spacing for case in cases],
        "shapes_after_crop": [case.shape for case in cases],
        "foreground_intensity_properties_per_channel": statistics,
        "median_relative_size_after_cropping": relative_size,
        WINDOWS: intensity_windows([case.tissue for case in cases], schemes=schemes,
                                   use_mask=[masked and True in mask_choices(scheme) for scheme in schemes],
                                   statistics=list(statistics.values())),
        VOLUMES: _by_name([case.volumes for case in cases if case.volumes]),
        **({INFORMATION: usual} if (usual := usual_information([case.alignment for case in cases])) else {}),
    }


def _by_name(cases: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    return {name: [case[name] for case in cases] for name in (cases[0] if cases else ())}


def _summarise_all(summarise: Callable[[Mapping[str, Any]], CaseSummary], cases: Mapping[str, Mapping[str, Any]], *,
                   processes: int) -> list[CaseSummary]:
    """Summaries in the order of ``cases``; with one process, made in this one."""
    watched = partial(progress, doing="extracting fingerprint", unit="case", total=len(cases))
    if processes == 1:
        return [_named(partial(summarise, case), name=name) for name, case in watched(cases.items())]
    with in_background(summarise, cases.values(), processes=processes, doing="extracting the fingerprint") as summaries:
        return [_named(summary, name=name) for name, summary in watched(zip(cases, summaries, strict=True))]


def _named(make: Callable[[], CaseSummary], *, name: str) -> CaseSummary:
    """What it makes; what it raises names the case."""
    with _naming_the_case(name):
        return make()


@contextmanager
def _naming_the_case(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise fault_of(error, name) from error

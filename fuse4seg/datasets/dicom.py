"""Studies of DICOM series as cases: matched to channels, written on one grid; and all of them as a raw dataset."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fuse4seg.case_faults import fault_of
from fuse4seg.datasets.dataset_json import NO_LABELS
from fuse4seg.datasets.dicom_series import Found, Series, Study, find_studies
from fuse4seg.datasets.dicom_volume import read_stack, stack_series
from fuse4seg.datasets.modalities import MODALITIES
from fuse4seg.datasets.one_grid import index_of_grid, write_on_grid
from fuse4seg.datasets.raw_writer import describe, new_raw_dataset
from fuse4seg.datasets.series_rules import Rules, choose_series, read_rules, rules_of, toml_key
from fuse4seg.errors import FaultyCasesError, Fuse4SegError, MissingModalityError, OptionError
from fuse4seg.progress import progress

log = logging.getLogger(__name__)

ENDING = ".nii.gz"
#: What helps with a study that is no case.
LEAVE_OUT = "leave the study out"


@dataclass(frozen=True)
class DicomCase:
    """A study of which it is known which series is which channel.

    Attributes:
        study: The study.
        series: For each channel its series, None where the study lacks it.
        reference: Index of the channel whose grid all get, which is there.
    """

    study: Study
    series: tuple[Series | None, ...]
    reference: int

    @property
    def name(self) -> str:
        """The case's name."""
        return self.study.name


def dicom_cases(found: Found, channels: Sequence[str], rules: Rules, *, reference: int = 0,
                allow_missing: bool = False,
                mend: str = LEAVE_OUT) -> tuple[dict[str, DicomCase], dict[str, Fuse4SegError]]:
    """Cases of studies.

    Args:
        found: From :func:`~fuse4seg.datasets.dicom_series.find_studies`.
        channels: That are wanted, in order.
        rules: From :func:`~fuse4seg.datasets.series_rules.read_rules`.
        reference: Index of the channel whose grid is wanted; where it is not there, the first that is takes its place.
        allow_missing: Also take studies that lack channels.
        mend: What a user can do about a study that lacks some, beside writing rules.

    Returns:
        The cases by name, and why others are none, by name.

    Raises:
        OptionError: There is no rule for a channel.
    """
    for channel in channels:
        if not rules_of(channel, rules):
            raise OptionError("--series_rules", f"no rule says which series is {channel}: there are rules for "
                                                f"{', '.join(rules)}. Write a table [[{toml_key(channel)}]] into a "
                                                "file, and give that.")
    cases, faults = {}, dict(found.faults)
    for study in found.studies.values():
        try:
            cases[study.name] = _case(study, channels, rules, reference=reference, allow_missing=allow_missing, mend=mend)
        except Fuse4SegError as error:
            faults[study.name] = error
    return cases, faults


def _case(study: Study, channels: Sequence[str], rules: Rules, *, reference: int, allow_missing: bool,
          mend: str) -> DicomCase:
    chosen = choose_series(study, channels, rules)
    log.info("%s: %s", study.name, "; ".join(f"{channel} is {series}" for channel, series in chosen.items()))
    absent = [channel for channel in channels if channel not in chosen]
    if absent and not (allow_missing and chosen):
        there = "; ".join(map(str, study.series))
        raise MissingModalityError(study.name, absent[0], None,
                                   f"The study holds {there}. Name one in a file for --series_rules, or {mend}.")
    series = tuple(chosen.get(channel) for channel in channels)
    return DicomCase(study, series, index_of_grid(series, reference))


def write_dicom_case(case: DicomCase, channels: Sequence[str], folder: Path, ending: str = ENDING) -> None:
    """Write CASE_0000, CASE_0001, ... on the grid of the reference, with a word in the log on what was resampled.

    Args:
        case: Of :func:`dicom_cases`.
        channels: Their names, in order.
        folder: Exists.
        ending: Of a format of volumes with a place in space.

    Raises:
        FaultyImageError, UnreadableImageError: A series is no volume, or cannot be read.
    """
    stacks = {index: stack_series(series, case.name) for index, series in enumerate(case.series) if series is not None}
    grid = read_stack(stacks[case.reference])
    space = stacks[case.reference].datasets[0].get("FrameOfReferenceUID")
    for index, stack in stacks.items():
        image = grid if index == case.reference else read_stack(stack)
        if stack.datasets[0].get("FrameOfReferenceUID") != space:
            log.warning("%s: %s is in another frame of reference than %s: whether they are aligned is not known",
                        case.name, channels[index], channels[case.reference])
        if stack.datasets[0].get("Modality") == "PT":
            units = stack.datasets[0].get("Units", "unknown")
            log.info("%s: %s is in the units of its header, %s, and not turned into SUV", case.name,
                     channels[index], units)
        write_on_grid(image, grid, folder / f"{case.name}_{index:04d}{ending}", case.name, channels[index])


def convert_dicom(source: Path, dataset_id: int, *, name: str = "DICOM", copy: bool = False, processes: int = 1,
                  rules: Path | None = None, channels: Sequence[str] = ()) -> None:
    """Write a raw dataset without labels of every study below a folder, each on the grid of its first channel.

    Args:
        source: Of DICOM files, in any order of sub-folders.
        dataset_id: Of the new dataset.
        name: Its name.
        copy: Of no meaning here: images are always written anew.
        processes: Cases examined at a time.
        rules: File of rules that go before the built-in ones.
        channels: That are wanted, in order; those that a study has, of the rules' channels, where none are given.

    Raises:
        OptionError, SeriesRulesError: The rules cannot be used.
        FaultyCasesError: Studies are ambiguous, lack a channel, or are no volumes; one line each.
        FaultyDatasetError: Cases cannot be trained on; one line each.
        As :func:`~fuse4seg.datasets.raw_writer.new_raw_dataset`, :func:`~fuse4seg.datasets.dicom_series.find_studies`.
    """
    known = read_rules(rules)
    found = find_studies(source)
    channels = channels or _channels_of(found, known)
    cases, faults = dicom_cases(found, channels, known)
    with new_raw_dataset(dataset_id, name) as folder:
        (folder / "imagesTr").mkdir()
        for case in progress(list(cases.values()), "converting images", unit="case"):
            try:
                write_dicom_case(case, channels, folder / "imagesTr")
            except Exception as error:  # noqa: BLE001 (what is no fault of the case is raised again)
                faults[case.name] = fault_of(error, case.name)
        if faults:
            raise FaultyCasesError(map(str, faults.values()), nothing_written=True)
        describe(folder, channels=channels, labels=NO_LABELS, training=len(cases), ending=ENDING, processes=processes)


def _channels_of(found: Found, rules: Rules) -> list[str]:
    """Channels that a rule finds in any study, in the order of the usual modalities, others behind."""
    order = [*MODALITIES, *(channel for channel in rules if channel not in MODALITIES)]
    return [channel for channel in order if channel in rules and any(
        rule.fits(series) for study in found.studies.values() for series in study.series for rule in rules[channel])]

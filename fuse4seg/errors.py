"""Failures that a user can cause or mend: one class each, whose message says what is wrong, where, and the mend."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


class Fuse4SegError(Exception):
    """Base of all failures that a command answers with its message alone and exit status 1."""

    def __reduce__(self) -> tuple[object, ...]:
        """Background processes send errors by their message, which is not what they are made from."""
        return _with_message, (type(self), str(self))


def _with_message(kind: type[Fuse4SegError], message: str) -> Fuse4SegError:
    error = kind.__new__(kind)
    error.args = (message,)
    return error


def first_line(error: Exception, *, kind: bool = False) -> str:
    """What an exception says, in one line of at most 160 characters; with ``kind`` after the name of its class."""
    said = f"{type(error).__name__}: {error}" if kind or not str(error) else str(error)
    return said.splitlines()[0][:160]


class FileError(Fuse4SegError):
    """Something is wrong with a file."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{path}: {problem}")


class CaseError(Fuse4SegError):
    """Something is wrong with a case."""

    def __init__(self, case: str, problem: str) -> None:
        super().__init__(f"case {case}: {problem}")


class RootNotSetError(Fuse4SegError):
    """One of nnU-Net's three data roots is unknown."""

    def __init__(self, variable: str) -> None:
        super().__init__(f"{variable} is not set. Give --root DIR, or set F4S_ROOT or {variable}.")


class DatasetNotFoundError(Fuse4SegError):
    """No folder Dataset<id>_<name> in any of the places searched."""

    def __init__(self, dataset: str, searched: Iterable[Path]) -> None:
        places = ", ".join(str(place) for place in searched)
        super().__init__(f"no dataset {dataset} in {places}. Check the id, or put the dataset there; "
                         f"f4s_convert_dataset msd converts the Decathlon's Task<id>_<name>.")


class AmbiguousDatasetError(Fuse4SegError):
    """Several folders carry the same dataset id."""

    def __init__(self, dataset: str, names: Iterable[str]) -> None:
        super().__init__(f"dataset id {dataset} is not unique: {', '.join(names)}. Rename one, or give the full name.")


class DatasetJsonError(FileError):
    """dataset.json is missing, cannot be read, or lacks something."""


class MissingModalityError(Fuse4SegError):
    """A case lacks the file of one of the dataset's channels."""

    def __init__(self, case: str, channel: str, expected: Path | None, mend: str) -> None:
        nowhere = ", a link that leads nowhere" if expected and expected.is_symlink() else ""
        super().__init__(f"case {case} has no {channel} image{f': expected {expected}{nowhere}' if expected else ''}. {mend}")


class SurplusChannelError(Fuse4SegError):
    """A case has a channel file that the dataset does not know."""

    def __init__(self, case: str, surplus: Path, channels: Iterable[str]) -> None:
        super().__init__(f"case {case}: {surplus} is beyond the dataset's channels ({', '.join(channels)}). "
                         f"Remove it, or name its channel in dataset.json.")


class UnsupportedFormatError(Fuse4SegError):
    """nnU-Net has no reader for a file ending."""

    def __init__(self, ending: str, *, reads: Iterable[str] = ()) -> None:
        convert = "Convert them to .nii.gz, and name that ending in dataset.json."
        mend = f"The model reads {', '.join(reads)}." if reads else convert
        super().__init__(f"nnU-Net cannot read files *{ending}. {mend}")


class DatasetExistsError(Fuse4SegError):
    """A dataset would be written over another."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"{folder} exists. Choose another dataset id, or remove the folder.")


class MissingExtraError(Fuse4SegError):
    """A library that only this feature needs is not installed."""

    def __init__(self, doing: str, package: str, extra: str) -> None:
        super().__init__(f"{doing} needs {package}, which is not installed. Install it: pip install 'fuse4seg[{extra}]'")


class SeriesRulesError(FileError):
    """A file of rules that tell series of images apart is missing, damaged, or holds what is no rule."""


class AmbiguousImagesError(CaseError):
    """Several images of a case could be one channel, or one could be several."""

    def __init__(self, case: str, channel: str, images: Iterable[str], *, mend: str) -> None:
        super().__init__(case, f"{channel} could be {' or '.join(images)}. {mend}")


class FaultyDatasetError(Fuse4SegError):
    """Cases of a raw dataset that cannot be trained on; one line per faulty case."""

    def __init__(self, dataset: str, faults: Iterable[str]) -> None:
        lines = list(faults)
        super().__init__("\n".join([*lines, f"{dataset}: {len(lines)} faulty case(s), listed above. Mend or remove them."]))


class EmptyFolderError(Fuse4SegError):
    """A folder that should hold images holds none."""

    def __init__(self, folder: Path, ending: str, *, mend: str = "") -> None:
        mend = mend or f"Give a folder of files CASE_0000{ending}, CASE_0001{ending}, ..."
        files = [path for path in folder.glob("[!.]*") if path.is_file()]
        there = sorted({"*" + "".join(path.suffixes[-2:] if path.suffix.lower() == ".gz" else path.suffix) for path in files})
        but = f", but {', '.join(there[:5])}" if there else ""
        super().__init__(f"{folder} holds no file *{ending}{but}. {mend}")


class MisnamedImageError(Fuse4SegError):
    """A file that was named is no channel of a case."""

    def __init__(self, path: Path, ending: str) -> None:
        super().__init__(f"{path} is not named CASE_0000{ending}, CASE_0001{ending}, ... Rename it, or give a folder; "
                         f"f4s_convert_dataset msd splits 4D files of the Decathlon.")


class DuplicateCaseError(Fuse4SegError):
    """Two cases have the same name, so that their outputs would be the same file."""

    def __init__(self, case: str, one: Path, other: Path) -> None:
        super().__init__(f"case {case} is there twice: {one} and {other}. Rename one of the cases.")


class FolderNotFoundError(Fuse4SegError):
    """A folder that was named does not exist."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"{folder} is not a folder. Check the path.")


class UnreadableImageError(Fuse4SegError):
    """A file that should be an image cannot be read as one."""

    def __init__(self, path: Path, reason: str, *, mend: str = "Replace the file.") -> None:
        super().__init__(f"{path} cannot be read as an image ({reason}). {mend}")


class PairsNotFoundError(Fuse4SegError):
    """A folder holds no pairs of images."""

    def __init__(self, folder: Path, wanted: str) -> None:
        super().__init__(f"{folder} holds no {wanted}. Give the folder that does.")


class UnsuitableImageError(Fuse4SegError):
    """An image that can be read but not fused or scored: its depth, range or size."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{path} {problem}")


class StaleImageError(Fuse4SegError):
    """A fused image that was made from other sources than those at hand."""

    def __init__(self, path: Path, source: Path) -> None:
        super().__init__(f"{path} is stale: {source} has changed since it was fused. Fuse again.")


class BrainExtractionError(Fuse4SegError):
    """The brain of a head could not be extracted."""

    def __init__(self, image: Path, problem: str) -> None:
        super().__init__(f"{image} still has its skull, and {problem}")


class UnreadableRecordError(Fuse4SegError):
    """A record that this tool keeps beside what it wrote is damaged."""

    def __init__(self, path: Path, problem: str, *, mend: str = "Remove it, and run the same command again.") -> None:
        super().__init__(f"{path} {problem}. {mend}")


class FaultyCasesError(Fuse4SegError):
    """Some cases of a folder could not be used; the rest was, or nothing. One line per faulty case, which are its ``faults``."""

    def __init__(self, faults: Iterable[str], *, nothing_written: bool = False) -> None:
        self.faults = lines = list(faults)
        end = ": nothing was written." if nothing_written else ", are not in the result."
        super().__init__("\n".join([*lines, f"{len(lines)} faulty case(s), listed above{end}"]))


class FaultyTrainingsError(Fuse4SegError):
    """Some trainings failed; the others are done. One line per training, naming its log."""

    def __init__(self, faults: Iterable[str], *,
                 mend: str = "Mend the cause and run the same command again: it goes on where these ended.") -> None:
        lines = list(faults)
        super().__init__("\n".join([*lines, f"{len(lines)} training(s), listed above, failed. {mend}"]))


class FaultyImageError(CaseError):
    """A case whose images cannot be used: geometry, NaN or constant intensities."""


class UnwritableFolderError(Fuse4SegError):
    """Output cannot be written to the folder that was named."""

    def __init__(self, folder: Path, reason: str) -> None:
        super().__init__(f"cannot write to {folder} ({reason}). Free space, choose another folder, or change its permissions.")


class NoForegroundError(Fuse4SegError):
    """No label of a dataset holds anything but background."""

    def __init__(self, dataset: str, where: str = "") -> None:
        super().__init__(f"{dataset}: no label holds a foreground voxel{where}. Give at least one case something to segment.")


class FingerprintNotFoundError(Fuse4SegError):
    """Planning was asked for before the fingerprint was extracted."""

    def __init__(self, path: Path, problem: str = "is missing") -> None:
        super().__init__(f"{path} {problem}. Run f4s_extract_fingerprint or f4s_plan_and_preprocess first.")


class PlansNotFoundError(Fuse4SegError):
    """No plans file for a dataset, or one that cannot be read."""

    def __init__(self, path: Path, problem: str = "is missing", *,
                 mend: str = "Run f4s_plan_and_preprocess for this dataset first.") -> None:
        super().__init__(f"{path} {problem}. {mend}")


class ForeignPlansError(Fuse4SegError):
    """Plans that were not made by this planner."""

    def __init__(self, plans: str) -> None:
        super().__init__(f"plans {plans} do not name our network. Plan with f4s_plan_and_preprocess, or give -p Fuse4SegPlans.")


class ConfigurationNotFoundError(Fuse4SegError):
    """The plans hold no such configuration."""

    def __init__(self, configuration: str, plans: Path | str, available: Iterable[str]) -> None:
        super().__init__(f"{plans} has no configuration {configuration}. Choose one of: {', '.join(available)}.")


class NotPreprocessedError(Fuse4SegError):
    """A configuration was planned but its data were not preprocessed."""

    def __init__(self, folder: Path, configuration: str) -> None:
        super().__init__(f"{folder} holds no preprocessed cases. Run f4s_preprocess -c {configuration} first.")


class FoldError(Fuse4SegError):
    """A fold that the dataset cannot provide."""


class OptionError(Fuse4SegError):
    """An option whose value is out of range or does not fit the others."""

    def __init__(self, option: str, problem: str) -> None:
        super().__init__(f"{option}: {problem}")


class RecipeError(Fuse4SegError):
    """A recipe that is not there, or an entry of one that is unknown, missing, of another type, or out of range."""

    def __init__(self, entry: str, problem: str, *, source: str = "recipe") -> None:
        super().__init__(f"{source}: {entry}: {problem}")
        self.entry, self.problem = entry, problem


class DeviceUnavailableError(Fuse4SegError):
    """The device asked for is not on this machine."""

    def __init__(self, device: str) -> None:
        super().__init__(f"-device {device} is not available here. Use -device cpu, or run where that device is visible.")


class UnpairedCasesError(Fuse4SegError):
    """Predictions and references do not name the same cases."""


class WorkerDiedError(Fuse4SegError):
    """A background process ended without an answer."""

    def __init__(self, doing: str, *, mend: str = "Use fewer processes (-np 1).") -> None:
        super().__init__(f"a background process died while {doing}, most likely for want of memory. {mend}")


class NotEnoughMemoryError(Fuse4SegError):
    """A task needs more memory than is free, which is known before it starts."""

    def __init__(self, task: str, *, needed: int, free: int, where: str, mend: str) -> None:
        super().__init__(f"{task} needs at least {needed / 1e9:.3g} GB of {where}, of which {free / 1e9:.3g} GB are free. {mend}")


class CaseTooLargeError(Fuse4SegError):
    """A case does not fit into the memory of the machine or its GPU."""

    def __init__(self, case: str) -> None:
        super().__init__(f"case {case}: there was not enough memory for it. Close other programs, use -device cpu, or predict it "
                         f"on a larger machine.")

"""Which intensities of a folder's images are black and white: given, or measured as the windows of planning are."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from fuse4seg.case_faults import fault_in_scoring
from fuse4seg.colour import WHITE, window_of
from fuse4seg.datasets.grey_images import UNIT_RANGE, GreyImage, GreyRange, read_grey_image
from fuse4seg.datasets.sources import Sources
from fuse4seg.errors import OptionError

log = logging.getLogger(__name__)

#: Of intensities to measure a folder by; each image gives as many.
VOXELS_PER_FOLDER = 2_000_000
SEED = 1234


def source_ranges(sources: Sources, given: Sequence[GreyRange] | None, *, further: int = 0) -> list[GreyRange]:
    """Range of each source: its own, the only one that is given, or what its images show.

    Raises:
        OptionError: There is another number of ranges, of which ``further`` may follow those of the sources.
    """
    if given is None:
        return [shown_range([files[index] for files in sources.images.values()], name)
                for index, name in enumerate(sources.names)]
    count = len(sources.names)
    if len(given) not in (1, *range(count, count + further + 1)):
        raise OptionError("--range", f"takes a pair for all sources, or one for each of {', '.join(sources.names)}"
                                     f"{' and one for the fused images' if further else ''}; got {len(given)} pairs.")
    return list(given) * count if len(given) == 1 else list(given[:count])


def fused_range(images: Iterable[Path], sources: Sources, given: Sequence[GreyRange] | None) -> GreyRange:
    """Range of fused images: their own, given after those of all sources; or what they show."""
    if given is not None and len(given) > len(sources.names):
        return given[-1]
    return shown_range(list(images), "fused", given[0] if given is not None and len(given) == 1 else None)


def shown_range(files: Sequence[Path], name: str, shared: GreyRange | None = None) -> GreyRange:
    """0 to 1, or ``shared``, where all intensities lie in it; else the window that is measured over all images.

    Images of 8 bits a channel are passed over, because no range is asked for; so are unreadable ones. Background, which is 0, is
    left out of the measurement, and what lies beyond the window will be black or white.

    Args:
        files: Images of one modality.
        name: Of it, for the log.
        shared: A range that other images have.
    """
    shown = range_of(_deep(files), len(files), shared)
    if shown.clips:
        log.info("%s: measured black %g and white %g; --range gives others", name, shown.low, shown.high)
    return shown


def range_of(images: Iterable[np.ndarray], count: int, shared: GreyRange | None = None) -> GreyRange:
    """As :func:`shown_range`, of intensities that are read already.

    Args:
        images: Intensities of each, any shape.
        count: How many there are at most.
        shared: A range that other images have.
    """
    low, high, drawn = np.inf, -np.inf, [np.zeros(0, np.float32)]
    for voxels in images:
        low, high = min(low, float(voxels.min())), max(high, float(voxels.max()))
        tissue, limit = voxels[voxels != 0], max(1, VOXELS_PER_FOLDER // count)
        drawn.append(tissue if len(tissue) <= limit else tissue[np.random.default_rng(SEED).integers(len(tissue), size=limit)])
    for fits in (UNIT_RANGE, *([] if shared is None else [shared])):
        if low >= fits.low and high <= fits.high:
            return fits
    return GreyRange(*window_of(np.concatenate(drawn)), clips=True)


def _deep(files: Iterable[Path]) -> Iterator[np.ndarray]:
    """Intensities of every readable image that is not 8-bit."""
    for path in files:
        try:
            levels = read_grey_image(path, None).levels
        except Exception as error:  # noqa: BLE001 (what is no fault of the image is raised again)
            fault_in_scoring(error, path.name)  # named where it is used
            continue
        if levels.dtype != np.uint8:
            yield levels


def is_narrow(image: GreyImage) -> bool:
    """Whether an image uses less than a tenth of black to white, so that metrics hardly see it."""
    return float(np.ptp(image.levels)) < WHITE / 10


def warn_of_narrow(images: Iterable[Path]) -> None:
    """Say which images use less than a tenth of their range, a line per folder."""
    by_folder: dict[Path, list[str]] = {}
    for path in images:
        by_folder.setdefault(path.parent, []).append(path.name)
    for folder, names in by_folder.items():
        log.warning("%s: %d image(s) use less than a tenth of black to white, among them %s. Check --range, which takes "
                    "a pair for each folder", folder, len(names), names[0])

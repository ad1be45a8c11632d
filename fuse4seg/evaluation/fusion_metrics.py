"""The fusion metrics together, under stated conventions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from fuse4seg.colour import WHITE
from fuse4seg.evaluation.bootstrap import defined_mean
from fuse4seg.evaluation.grey import grey
from fuse4seg.evaluation.grey_statistics import UNITS, entropy, mutual_information, scd, spatial_frequency, standard_deviation
from fuse4seg.evaluation.qabf import qabf
from fuse4seg.evaluation.ssim import ssim
from fuse4seg.evaluation.vif import vif

#: By how they are named in tables, in their order there; larger is better in all.
METRICS = ("EN", "SD", "SF", "MI", "SCD", "VIF", "Qabf", "SSIM")


@dataclass(frozen=True)
class Conventions:
    """What published tables disagree about; stated with every result.

    Attributes:
        normalise: Stretch the fused image to 0..255 before it is scored.
        mi_unit: "nats" or "bits".
        ssim_range: Data range of SSIM.

    Raises:
        ValueError: One is out of range.

    Source: fusion-metrics.md, "Fusion metrics".

    Example:
        >>> Conventions(mi_unit="bits")
        Conventions(normalise=False, mi_unit='bits', ssim_range=255)
    """

    normalise: bool = False
    mi_unit: str = "nats"
    ssim_range: float = WHITE

    def __post_init__(self) -> None:
        if self.mi_unit not in UNITS:
            raise ValueError(f"mutual information is given in {' or '.join(UNITS)}, not in {self.mi_unit}")
        if not self.ssim_range > 0:
            raise ValueError(f"the data range of SSIM lies above 0, got {self.ssim_range}")

    def to_plain(self) -> dict[str, Any]:
        """For a result's file."""
        return asdict(self)


STANDARD = Conventions()


def fusion_metrics(fused: np.ndarray, sources: Sequence[np.ndarray], conventions: Conventions = STANDARD) -> dict[str, float]:
    """All METRICS of one fused image or volume.

    Args:
        fused: Shape (Y, X) or (Z, Y, X), uint8 or float in 0..255, at least 41 voxels along Y and X.
        sources: Two or more of that shape.
        conventions: How to score.

    Returns:
        The values by METRICS. Of a volume, the means over its slices, each metric over those where it is defined; NaN where
        there is none.

    Raises:
        ValueError: Shapes, types or ranges do not fit.

    Example:
        >>> ct, mri = np.random.default_rng(0).integers(0, 256, (2, 48, 48), dtype=np.uint8)
        >>> values = fusion_metrics(np.maximum(ct, mri), [ct, mri])
        >>> {name: round(value, 2) for name, value in values.items()}
        {'EN': 7.63, 'SD': 60.6, 'SF': 121.23, 'MI': 7.92, 'SCD': 1.24, 'VIF': 0.13, 'Qabf': 0.27, 'SSIM': 1.13}
    """
    if fused.ndim not in (2, 3) or any(source.shape != fused.shape for source in sources):
        shapes = ", ".join(str(source.shape) for source in sources)
        raise ValueError(f"images of shape (Y, X) or (Z, Y, X), all alike, are scored; got {fused.shape} and {shapes}")
    if fused.ndim == 3:
        slices = [fusion_metrics(image, parts, conventions) for image, *parts in zip(fused, *sources, strict=True)]
        return {name: defined_mean(values[name] for values in slices) for name in METRICS}
    image = stretch(fused) if conventions.normalise else fused
    of_image = {"EN": entropy, "SD": standard_deviation, "SF": spatial_frequency}
    of_both = {"MI": partial(mutual_information, unit=conventions.mi_unit), "SCD": scd, "VIF": vif, "Qabf": qabf,
               "SSIM": partial(ssim, data_range=conventions.ssim_range)}
    values = {**{name: metric(image) for name, metric in of_image.items()},
              **{name: metric(image, sources) for name, metric in of_both.items()}}
    return {name: values[name] for name in METRICS}


def stretch(image: np.ndarray) -> np.ndarray:
    """A grey image whose darkest voxel becomes 0 and whose brightest 255; one of a single grey level stays as it is.

    Example:
        >>> stretch(np.array([[10.0, 20.0, 60.0]]))
        array([[  0.,  51., 255.]])
    """
    values = grey(image)
    low, high = values.min(), values.max()
    return (values - low) * (WHITE / (high - low)) if high > low else values

"""What a user can choose about the plans."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fuse4seg.errors import OptionError
from fuse4seg.planning.followers import FOLLOWERS, UNET
from fuse4seg.plans import PLANS_NAME
from fuse4seg.training.hypergradients import ESTIMATORS

#: Channels of the fused image.
FUSED_IMAGES = {"colour": 3, "grey": 1}
#: nnU-Net's U-Nets start with 32 features.
BASE_FEATURES = 32
SMALLEST_BASE_FEATURES, SMALLEST_BATCH = 4, 2


@dataclass(frozen=True)
class PlanOptions:
    """Options of one planning; they go into the plans.

    Attributes:
        gpu_memory_target: Gigabytes (1e9 bytes) that training should fill; None for what the visible GPU has to give, without
            one for what nnU-Net plans the follower for.
        max_batch_size: Largest batch, at least 2; None for what memory allows.
        base_features: Features of the follower's first stage; the largest number scales along.
        plans_name: Name of the plans file, without its ending.
        overwrite_target_spacing: Millimetres between voxels along the image's three axes, instead of the median.
        reference: Name of the modality that asks in the cross-attention; None for the one that dataset.json names, else the
            first.
        follower: Segmentation network (FOLLOWERS).
        fused_image: In colour or grey (FUSED_IMAGES); None: in colour where there are labels and several modalities.
        cross_attention: Whether one modality asks the others (paper, Eq. 8); None: without labels alone, as segmentation did not
            gain by it (documentation/explanation/results.md).
        hypergradient: Estimator whose memory is planned for (ESTIMATORS).

    Raises:
        OptionError: One is out of range; the message names the command's flag.
    """

    gpu_memory_target: float | None = None
    max_batch_size: int | None = None
    base_features: int = BASE_FEATURES
    plans_name: str = PLANS_NAME
    overwrite_target_spacing: Sequence[float] | None = None
    reference: str | None = None
    follower: str = UNET
    fused_image: str | None = None
    cross_attention: bool | None = None
    hypergradient: str = "gauss_newton"

    def __post_init__(self) -> None:
        if self.gpu_memory_target is not None and not 0 < self.gpu_memory_target < math.inf:
            problem = f"{self.gpu_memory_target:g} GB is no memory. Give a number above 0."
            raise OptionError("-gpu_memory_target", problem)
        if self.max_batch_size is not None and self.max_batch_size < SMALLEST_BATCH:
            raise OptionError("--max_batch_size", f"{self.max_batch_size} is too small. Give at least {SMALLEST_BATCH}: "
                                                  f"fusion and segmentation each need a part of the batch.")
        if self.base_features < SMALLEST_BASE_FEATURES:
            raise OptionError("--base_features", f"{self.base_features} is too few. Give at least {SMALLEST_BASE_FEATURES}.")
        if not self.plans_name or "__" in self.plans_name or Path(self.plans_name).name != self.plans_name:
            problem = f"{self.plans_name!r} is no name for plans. Use letters, digits and single _."
            raise OptionError("-overwrite_plans_name", problem)
        spacing = self.overwrite_target_spacing
        if spacing is not None and (len(spacing) != 3 or not all(0 < step < math.inf for step in spacing)):
            problem = f"{' '.join(map(str, spacing))} is no spacing. Give three numbers above 0."
            raise OptionError("-overwrite_target_spacing", problem)
        if self.follower not in FOLLOWERS:
            raise OptionError("--follower", f"there is no {self.follower!r}. Choose one of: {', '.join(FOLLOWERS)}.")
        if self.fused_image is not None and self.fused_image not in FUSED_IMAGES:
            raise OptionError("--fused_image", f"there is no {self.fused_image!r}. Choose one of: {', '.join(FUSED_IMAGES)}.")
        if self.hypergradient not in ESTIMATORS:
            raise OptionError("--hypergradient", f"there is no {self.hypergradient!r}. Choose one of: {', '.join(ESTIMATORS)}.")

    def to_plain(self) -> dict[str, Any]:
        """Numbers and names by the options' names, for the plans."""
        return asdict(self)

"""Plans files: what they are called, and how they are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fuse4seg.errors import PlansNotFoundError
from fuse4seg.files import read_json

PLANS_NAME = "Fuse4SegPlans"
NETWORK = "fuse4seg.networks.fuse_then_segment.FuseThenSegment"
#: What a plans file says about how we made it stands under this key.
OURS = "fuse4seg"
#: How strongly a fused image that is to be segmented prefers the brighter source before training, by its channels. In colour
#: modalities are told apart by their channels.
BRIGHTER = {1: 1.0, 3: 0.0}


def read_plans(path: Path) -> dict[str, Any]:
    """Content of a plans file.

    Raises:
        PlansNotFoundError: It is missing or cannot be read.
    """
    plans = read_json(path, PlansNotFoundError)
    if not isinstance(plans, dict) or not isinstance(plans.get("configurations"), dict):
        raise PlansNotFoundError(path, "holds no plans")
    return plans

"""Plans files: what they are called, how they are read, and the network that they describe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from fuse4seg.errors import PlansNotFoundError
from fuse4seg.files import read_json

PLANS_NAME = "Fuse4SegPlans"
NETWORK = "fuse4seg.networks.fuse_then_segment.FuseThenSegment"
#: What a plans file says about how we made it stands under this key.
OURS = "fuse4seg"


def read_plans(path: Path) -> dict[str, Any]:
    """Content of a plans file.

    Raises:
        PlansNotFoundError: It is missing or cannot be read.
    """
    plans = read_json(path, PlansNotFoundError)
    if not isinstance(plans, dict) or not isinstance(plans.get("configurations"), dict):
        raise PlansNotFoundError(path, "holds no plans")
    return plans


def build_network(plans: PlansManager, configuration: ConfigurationManager, dataset_json: dict[str, Any]) -> nn.Module:
    """The network of a configuration, neither initialised nor with deep supervision.

    Args:
        plans: All of them.
        configuration: The one of them.
        dataset_json: Of the dataset, for its channels and labels.

    Raises:
        Exception: Whatever a constructor makes of arguments that it was not made for.
    """
    return get_network_from_plans(
        configuration.network_arch_class_name, configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import, determine_num_input_channels(plans, configuration, dataset_json),
        plans.get_label_manager(dataset_json).num_segmentation_heads, allow_init=False, deep_supervision=False)

"""The network that plans describe."""

from __future__ import annotations

from typing import Any

from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn


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

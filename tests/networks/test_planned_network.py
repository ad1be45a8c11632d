"""Building what plans describe."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn

from fuse4seg.networks.planned_network import build_network


def plans_of(network: str) -> PlansManager:
    architecture = {"network_class_name": network, "_kw_requires_import": ["conv_op"], "arch_kwargs": {
        "n_stages": 2, "features_per_stage": [4, 8], "conv_op": "torch.nn.Conv2d", "kernel_sizes": [[3, 3]] * 2,
        "strides": [[1, 1], [2, 2]], "n_conv_per_stage": [1] * 2, "n_conv_per_stage_decoder": [1]}}
    return PlansManager({"dataset_name": "Dataset990_Test", "plans_name": "P", "label_manager": "LabelManager",
                         "configurations": {"2d": {"architecture": architecture}}})


def test_takes_channels_and_classes_from_the_dataset() -> None:
    dataset: dict[str, Any] = {"channel_names": {"0": "T1", "1": "T2", "2": "FLAIR"}, "labels": {"background": 0, "a": 1, "b": 2}}
    plans = plans_of("dynamic_network_architectures.architectures.unet.PlainConvUNet")
    network = build_network(plans, plans.get_configuration("2d"), dataset)
    assert isinstance(network, nn.Module)
    assert network(torch.randn(2, 3, 8, 8)).shape == (2, 3, 8, 8)


def test_lets_a_constructors_refusal_through() -> None:
    plans = plans_of("torch.nn.Conv2d")
    with pytest.raises(TypeError):
        build_network(plans, plans.get_configuration("2d"), {"channel_names": {"0": "T1"}, "labels": {"background": 0, "a": 1}})

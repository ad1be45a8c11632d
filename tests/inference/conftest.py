"""Small networks with random weights, a predictor around one of them, and a phantom with what it is preprocessed by."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn

from fuse4seg.datasets.raw import Case
from fuse4seg.inference.predictor import Fuse4SegPredictor
from fuse4seg.inference.preprocess_case import Recipe
from fuse4seg.networks.fuse_then_segment import FuseThenSegment

MakeModel = Callable[..., FuseThenSegment]


@pytest.fixture
def make_model() -> MakeModel:
    """Seeded model of ``axes`` axes and ``modalities`` channels, whose painted image weighs as much as a source."""

    def make(axes: int = 2, modalities: int = 3, seed: int = 0, *, demosaic: bool = False) -> FuseThenSegment:
        torch.manual_seed(seed)
        conv_op, strides = (nn.Conv2d, nn.Conv3d)[axes - 2], [[1] * axes, [2] * axes, [2] * axes]
        follower = {"network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
                    "_kw_requires_import": [],
                    "arch_kwargs": {"n_stages": 3, "features_per_stage": [4, 8, 8], "conv_op": conv_op,
                                    "kernel_sizes": [[3] * axes] * 3, "strides": strides, "n_conv_per_stage": [1] * 3,
                                    "n_conv_per_stage_decoder": [1] * 2, "conv_bias": True,
                                    "norm_op": (nn.InstanceNorm2d, nn.InstanceNorm3d)[axes - 2],
                                    "norm_op_kwargs": {"affine": True}, "nonlin": nn.LeakyReLU}}
        model = FuseThenSegment(modalities, 4, conv_op=conv_op, strides=strides, windows=[[-2, 2]] * modalities,
                                follower=follower, fusion={"detail_features": 8, "base_features": 16, "couplings": 1,
                                                           "transformers": 1, "halftone": 0.4 if demosaic else None},
                                demosaic=demosaic)
        model.apply(FuseThenSegment.initialize)
        nn.init.zeros_(model.fusion.gate.painted.bias)
        return model.eval()

    return make


@pytest.fixture
def make_predictor() -> Callable[..., Fuse4SegPredictor]:
    """Predictor around one or more sets of weights, with a patch of 16 voxels, and mirroring, along each axis."""

    def make(model: FuseThenSegment, *others: FuseThenSegment, axes: int = 2, mirror: bool = False,
             want_attention: bool = False) -> Fuse4SegPredictor:
        predictor = Fuse4SegPredictor(device=torch.device("cpu"), use_mirroring=mirror, want_attention=want_attention)
        weights = [{name: value.clone() for name, value in each.state_dict().items()} for each in (model, *others)]
        predictor.network, predictor.list_of_parameters = model, weights
        predictor.allowed_mirroring_axes = tuple(range(axes))
        predictor.configuration_manager = SimpleNamespace(patch_size=[16] * axes)
        predictor.label_manager = SimpleNamespace(num_segmentation_heads=4)
        return predictor

    return make


@pytest.fixture
def case(planned_phantom: Path) -> Case:
    """A phantom that nothing was trained on."""
    folder = planned_phantom / "nnUNet_raw" / "Dataset990_Phantom" / "imagesTs"
    return Case("phantom_005", tuple(sorted(folder.iterdir())))


@pytest.fixture
def make_recipe(planned_phantom: Path) -> Callable[..., Recipe]:
    """Recipe of a configuration, by the plans of the phantoms or of a model's folder."""

    def make(configuration: str, model: Path | None = None) -> Recipe:
        folder = model or planned_phantom / "nnUNet_preprocessed" / "Dataset990_Phantom"
        plans = PlansManager(json.loads((folder / ("plans.json" if model else "Fuse4SegPlans.json")).read_text()))
        return Recipe(plans, plans.get_configuration(configuration), json.loads((folder / "dataset.json").read_text()))

    return make

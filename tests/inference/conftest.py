"""Small networks with random weights, models around them, and a phantom with what it is preprocessed by."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn

from fuse4seg.datasets.raw import Case
from fuse4seg.inference.model import Model, ModelDescription
from fuse4seg.networks.fuse_then_segment import FuseThenSegment

MakeNetwork = Callable[..., FuseThenSegment]
MakePlans = Callable[..., PlansManager]
MakeLoaded = Callable[..., Model]


@pytest.fixture(scope="session")
def make_network() -> MakeNetwork:
    """Seeded network of ``axes`` axes and ``modalities`` channels, in colour or grey, whose tint weighs as much as a source."""

    def make(axes: int = 2, modalities: int = 3, seed: int = 0, *, colours: int = 3, extra: int = 0,
             cross_attention: bool = True) -> FuseThenSegment:
        torch.manual_seed(seed)
        conv_op, strides = (nn.Conv2d, nn.Conv3d)[axes - 2], [[1] * axes, [2] * axes, [2] * axes]
        follower = {"network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
                    "_kw_requires_import": [],
                    "arch_kwargs": {"n_stages": 3, "features_per_stage": [4, 8, 8], "conv_op": conv_op,
                                    "kernel_sizes": [[3] * axes] * 3, "strides": strides, "n_conv_per_stage": [1] * 3,
                                    "n_conv_per_stage_decoder": [1] * 2, "conv_bias": True,
                                    "norm_op": (nn.InstanceNorm2d, nn.InstanceNorm3d)[axes - 2],
                                    "norm_op_kwargs": {"affine": True}, "nonlin": nn.LeakyReLU}}
        leader = {"network_class_name": "fuse4seg.leaders.gate.GateLeader", "_kw_requires_import": [],
                  "arch_kwargs": {"detail_features": 8, "base_features": 16, "couplings": 1, "transformers": 1,
                                  "colours": colours, "cross_attention": cross_attention}}
        network = FuseThenSegment(modalities + extra, 4, conv_op=conv_op, strides=strides, windows=[[-2, 2]] * modalities,
                                  follower=follower, leader=leader)
        network.apply(FuseThenSegment.initialize)
        nn.init.zeros_(network.fusion.gate.tint_share.bias)
        return network.eval()

    return make


@pytest.fixture(scope="session")
def make_plans() -> MakePlans:
    """Plans of one configuration, "here", that keeps intensities as they are; ``order`` is that of resampling images."""

    def make(spacing: Sequence[float], *, patch: Sequence[int] = (16, 16, 16), transpose: Sequence[int] = (0, 1, 2),
             order: int = 1, channels: int = 1) -> PlansManager:
        resampling = {f"resampling_fn_{kind}": "resample_data_or_seg_to_shape" for kind in ("data", "seg", "probabilities")}
        arguments = {f"resampling_fn_{kind}_kwargs": {"is_seg": kind == "seg", "order": degree, "order_z": 0,
                                                      "force_separate_z": None}
                     for kind, degree in (("data", order), ("seg", 1), ("probabilities", 1))}
        configuration = {"spacing": list(spacing), "patch_size": list(patch), "architecture": {},
                         "normalization_schemes": ["NoNormalization"] * channels, "use_mask_for_norm": [False] * channels,
                         "preprocessor_name": "DefaultPreprocessor", "data_identifier": "data", **resampling, **arguments}
        return PlansManager({"dataset_name": "Dataset001_Test", "plans_name": "Plans", "configurations": {"here": configuration},
                             "transpose_forward": list(transpose), "transpose_backward": np.argsort(transpose).tolist(),
                             "image_reader_writer": "SimpleITKIO", "label_manager": "LabelManager",
                             "foreground_intensity_properties_per_channel": {str(index): {} for index in range(channels)}})

    return make


@pytest.fixture(scope="session")
def make_loaded(make_plans: MakePlans) -> MakeLoaded:
    """Model of one or more networks' weights, with a patch of 16 voxels, and mirroring, along each axis."""

    def make(network: FuseThenSegment, *others: FuseThenSegment, spacing: Sequence[float] | None = None, mirror: bool = False,
             transpose: Sequence[int] = (0, 1, 2), labels: bool = True) -> Model:
        axes = len(network.fusion.total_stride)
        plans = make_plans(spacing or (1,) * axes, patch=[16] * axes, transpose=transpose, order=3, channels=network.modalities)
        names = {str(index): f"M{index}" for index in range(network.modalities)}
        dataset_json = {"channel_names": names, "file_ending": ".nii.gz",
                        "labels": {"background": 0, **({"a": 1, "b": 2, "c": 3} if labels else {})}}
        weights = [{name: value.clone() for name, value in each.state_dict().items()} for each in (network, *others)]
        description = ModelDescription(plans, plans.get_configuration("here"), dataset_json)
        return Model(network, description, torch.device("cpu"), weights,
                     mirror_axes=tuple(range(axes)) if mirror else ())

    return make


@pytest.fixture
def case(planned_phantom: Path) -> Case:
    """A phantom that nothing was trained on."""
    folder = planned_phantom / "nnUNet_raw" / "Dataset990_Phantom" / "imagesTs"
    return Case("phantom_005", tuple(sorted(folder.iterdir())))


@pytest.fixture
def make_description(planned_phantom: Path) -> Callable[..., ModelDescription]:
    """Description of a configuration, by the plans of the phantoms or of a model's folder."""

    def make(configuration: str, model: Path | None = None) -> ModelDescription:
        folder = model or planned_phantom / "nnUNet_preprocessed" / "Dataset990_Phantom"
        plans = PlansManager(json.loads((folder / ("plans.json" if model else "Fuse4SegPlans.json")).read_text()))
        return ModelDescription(plans, plans.get_configuration(configuration), json.loads((folder / "dataset.json").read_text()))

    return make

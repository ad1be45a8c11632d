"""Roles of weights, found by building a network with one modality, class or input more."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from fuse4seg.followers.swin_unet import FOLLOWER as SWIN
from fuse4seg.networks.fuse_then_segment import FuseThenSegment
from fuse4seg.training.weight_roles import growing, own_weights, roles_of

LEADERS = {"gate": {"detail_features": 4, "base_features": 8}, "tardal": {}}


def model(leader: str, follower: dict[str, Any]) -> tuple[FuseThenSegment, dict[str, Any]]:
    """Of two modalities and two classes, without memory, and what plans say of it."""
    kind = {"gate": "GateLeader", "tardal": "TarDAL"}[leader]
    architecture = {"strides": [[1, 1], [2, 2], [2, 2]], "follower": follower, "leader": {
        "network_class_name": f"fuse4seg.leaders.{leader}.{kind}", "_kw_requires_import": [], "arch_kwargs": LEADERS[leader]}}
    with torch.device("meta"):
        return FuseThenSegment(2, 2, conv_op=nn.Conv2d, windows=[[-2.0, 2.0]] * 2, **architecture), architecture


class TestRoles:
    def test_of_our_own_model(self, tiny_follower: dict[str, Any]) -> None:
        roles = roles_of(*model("gate", tiny_follower), inputs=3, classes=2)
        assert roles.modalities == {"fusion.encoder.modality": 0}
        assert roles.classes == {f"{name}.{kind}": 0 for name in ("segmentation.decoder.seg_layers.0", "auxiliary_head.head.1",
                                                                   "segmentation.decoder.seg_layers.1")
                                 for kind in ("weight", "bias")}
        assert roles.inputs == {"segmentation.encoder.stages.0.0.convs.0.conv.weight": 1}

    def test_of_a_leader_for_two_are_of_its_follower_alone(self, tiny_follower: dict[str, Any]) -> None:
        roles = roles_of(*model("tardal", tiny_follower), inputs=1, classes=2)
        assert roles.modalities == {}
        assert set(roles.inputs.values()) == {1}
        assert all(name.startswith("segmentation.decoder.seg_layers.") for name in roles.classes)

    def test_of_a_network_that_names_nothing_as_nnunet_does(self) -> None:
        network = SWIN.network
        follower = {"network_class_name": f"{network.__module__}.{network.__qualname__}", "_kw_requires_import": ["conv_op"],
                    "arch_kwargs": {"conv_op": "torch.nn.Conv2d", "strides": [[1, 1], [2, 2], [2, 2]]}}
        roles = roles_of(*model("gate", follower), inputs=3, classes=2)
        assert [axis for name, axis in roles.classes.items() if name.startswith("segmentation.")] == [0]
        assert list(roles.inputs.values()) == [1]


class TestGrowing:
    @pytest.mark.parametrize(("few", "many", "found"), [
        (nn.Linear(2, 3), nn.Linear(2, 4), {"weight": 0, "bias": 0}),
        (nn.Linear(2, 3), nn.Linear(2, 5), {"weight": None, "bias": None}),
        (nn.Linear(2, 3), nn.Linear(3, 4), {"weight": None, "bias": 0}), (nn.Linear(2, 3), nn.Linear(2, 3), {})])
    def test_knows_an_axis_only_by_one_entry_more(self, few: nn.Module, many: nn.Module, found: dict[str, int | None]) -> None:
        assert growing(few, many) == found


def test_weights_that_are_there_twice_count_once() -> None:
    shared = nn.Linear(1, 1, bias=False)
    network = nn.ModuleDict({"one": shared, "other": shared, "norm": nn.BatchNorm1d(1, affine=False)})
    assert list(own_weights(network)) == ["one.weight", "norm.running_mean", "norm.running_var", "norm.num_batches_tracked"]

"""Plans of a trained model: what our planner writes passes with every follower, and nothing else is looked up."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from fuse4seg.inference.model_plans import read_model_plans, require_known_classes
from fuse4seg.model_errors import ModelPlansError, UntrustedModelError

PATH = Path("plans.json")
RESENC = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
Plans = dict[str, Any]


@pytest.fixture
def plans(planned_phantom: Path) -> Plans:
    """For this test to change."""
    return deepcopy(json.loads((planned_phantom / "nnUNet_preprocessed/Dataset990_Phantom/Fuse4SegPlans.json").read_text()))


def architecture(plans: Plans) -> dict[str, Any]:
    return plans["configurations"]["2d"]["architecture"]


class TestPreviousStage:
    def test_of_the_same_plans_passes(self, plans: Plans) -> None:
        plans["configurations"]["3d_fullres"]["previous_stage"] = "2d"
        require_known_classes(plans, PATH)

    @pytest.mark.parametrize("name", ["3d_lowres", "../../elsewhere", "", 7, ["2d"]])
    def test_that_is_not_in_the_plans_is_refused(self, plans: Plans, name: object) -> None:
        plans["configurations"]["3d_fullres"]["previous_stage"] = name
        with pytest.raises(ModelPlansError, match="previous_stage of configuration 3d_fullres is"):
            require_known_classes(plans, PATH)

    def test_with_a_name_that_leads_elsewhere_is_refused(self, plans: Plans) -> None:
        plans["configurations"]["../2d"] = plans["configurations"]["2d"]
        plans["configurations"]["3d_fullres"]["previous_stage"] = "../2d"
        with pytest.raises(ModelPlansError, match="previous_stage of configuration 3d_fullres is"):
            require_known_classes(plans, PATH)


class TestKnownClasses:
    def test_of_our_planner_pass(self, plans: Plans, planned_phantom: Path) -> None:
        path = planned_phantom / "nnUNet_preprocessed/Dataset990_Phantom/Fuse4SegPlans.json"
        assert read_model_plans(path) == plans

    @pytest.mark.parametrize("follower", [RESENC, "fuse4seg.followers.cnn_transformer.CNNTransformer"])
    def test_of_every_follower_pass(self, plans: Plans, follower: str) -> None:
        architecture(plans)["arch_kwargs"]["follower"]["network_class_name"] = follower
        require_known_classes(plans, PATH)

    def test_are_passed_over_where_nothing_is_named(self, plans: Plans) -> None:
        follower = architecture(plans)["arch_kwargs"]["follower"]
        follower["arch_kwargs"]["dropout_op"] = None
        require_known_classes(plans, PATH)

    @pytest.mark.parametrize("name", [
        "os.system", "subprocess.Popen", "builtins.eval", "torch.load", "torch.hub.load", "torch.nn", "torch.nn.functional.relu",
        "torch.nn.modules.module.OrderedDict", "torch.nn.modules.module.torch.nn.Linear.forward", "numpy.load", "Conv2d", "",
        "torch.nn.Conv2d.__init__", "torch.nn.NoSuchThing", "nnunetv2.run.run_training.os.system", "torch.nn.Conv2d\n", 7, None])
    @pytest.mark.parametrize("place", ["network", "follower"])
    def test_do_not_include(self, plans: Plans, place: str, name: object) -> None:
        inner = architecture(plans) if place == "network" else architecture(plans)["arch_kwargs"]["follower"]
        inner["network_class_name"] = name
        with pytest.raises(UntrustedModelError, match="network_class_name") as refused:
            require_known_classes(plans, PATH)
        assert len(str(refused.value).splitlines()) == 1

    def test_are_not_asked_for_where_the_maker_is_trusted(self, plans: Plans, tmp_path: Path) -> None:
        architecture(plans)["network_class_name"] = "mine.Network"
        (tmp_path / "plans.json").write_text(json.dumps(plans))
        assert read_model_plans(tmp_path / "plans.json", trust=True) == plans
        with pytest.raises(UntrustedModelError, match="mine.Network"):
            read_model_plans(tmp_path / "plans.json")

    def test_are_looked_for_in_configurations_that_inherit(self, plans: Plans) -> None:
        plans["configurations"]["mine"] = {"inherits_from": "2d", "preprocessor_name": "os"}
        with pytest.raises(UntrustedModelError, match="preprocessor_name of configuration mine"):
            require_known_classes(plans, PATH)

    @pytest.mark.parametrize("entry", ["image_reader_writer", "transpose_forward", "transpose_backward"])
    def test_of_incomplete_plans_are_not_guessed(self, plans: Plans, entry: str) -> None:
        del plans[entry]
        with pytest.raises(ModelPlansError, match=entry):
            require_known_classes(plans, PATH)

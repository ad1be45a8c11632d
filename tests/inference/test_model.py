"""Loading a trained model: weights, plans, settings, number formats, and everything that keeps it from being used."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fuse4seg.errors import OptionError
from fuse4seg.inference.model import Model, choose_precision, load_model, require_predictive
from fuse4seg.model_errors import CheckpointError, CheckpointNotFoundError, ModelPlansError
from fuse4seg.networks.fuse_then_segment import FuseThenSegment

CHECKPOINT = Path("fold_0", "checkpoint_final.pth")
MakeNetwork = Callable[..., FuseThenSegment]
MakeLoaded = Callable[..., Model]


def load(folder: Path, **changes: object) -> Model:
    return load_model(folder, **{"folds": [0], "device": torch.device("cpu"), **changes})


def trained(folder: Path) -> dict[str, Any]:
    return torch.load(folder / CHECKPOINT, weights_only=True)


@pytest.fixture
def folder(trained_model: Path, tmp_path: Path) -> Path:
    """A copy of the trained model for this test to change."""
    return Path(shutil.copytree(trained_model, tmp_path / "model"))


class TestLoadModel:
    def test_has_the_trained_weights_and_the_trainings_mirror_axes(self, trained_model: Path) -> None:
        model, wanted = load(trained_model), trained(trained_model)["network_weights"]
        (network,) = model.with_each_weights()
        assert network is model.network
        assert all(torch.equal(value, wanted[name]) for name, value in network.state_dict().items())
        assert model.mirror_axes == (0, 1)
        assert model.modality_dropout == 0
        assert (model.colours, model.description.segments, model.description.previous_stage) == (3, True, None)
        assert load(trained_model, mirroring=False).mirror_axes == ()

    @pytest.mark.parametrize(("rates", "least"), [((0.25,), 0.25), ((0.5, 0.1), 0.1), ((0.5, None), 0)])
    def test_knows_how_often_its_trainings_left_modalities_out(self, folder: Path, rates: tuple[float | None, ...],
                                                               least: float) -> None:
        """None stands for a checkpoint by nnU-Net's own trainer, which follows no recipe."""
        state = trained(folder)
        for fold, rate in enumerate(rates):
            recipe = {**state["recipe"], "training": {**state["recipe"]["training"], "modality_dropout": rate}}
            (folder / f"fold_{fold}").mkdir(exist_ok=True)
            torch.save({**state, "recipe": None if rate is None else recipe}, folder / f"fold_{fold}" / CHECKPOINT.name)
        assert load(folder, folds=list(range(len(rates)))).modality_dropout == least

    def test_needs_no_results_root(self, trained_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("nnUNet_results")
        assert isinstance(load(trained_model).network, FuseThenSegment)

    def test_refuses_a_fold_without_checkpoint(self, trained_model: Path) -> None:
        with pytest.raises(CheckpointNotFoundError, match="fold_3"):
            load(trained_model, folds=[3])

    def test_refuses_weights_of_other_plans(self, folder: Path) -> None:
        state = trained(folder)
        state["network_weights"].popitem()
        torch.save(state, folder / CHECKPOINT)
        with pytest.raises(CheckpointError, match="does not fit"):
            load(folder)

    @pytest.mark.parametrize("change", [lambda arguments: arguments["leader"]["arch_kwargs"].update(halftone=0.2, sum_share=0.12),
                                        lambda arguments: arguments.update(demosaic=True, follower_input="fused")])
    def test_of_an_older_layout_has_to_be_trained_again(self, folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
        plans = json.loads((folder / "plans.json").read_text())
        change(plans["configurations"]["2d"]["architecture"]["arch_kwargs"])
        (folder / "plans.json").write_text(json.dumps(plans))
        state = trained(folder)
        state["init_args"]["plans"] = plans
        torch.save(state, folder / CHECKPOINT)
        with pytest.raises(ModelPlansError) as refused:
            load(folder)
        line = str(refused.value)
        assert line.startswith(f"{folder / 'plans.json'} describes no network that can be built (TypeError: ")
        assert line.endswith("Plan and train again, or predict with the version that made it.")
        assert "\n" not in line

    def test_of_plans_that_are_damaged_asks_for_the_file(self, folder: Path) -> None:
        (folder / "plans.json").write_text("{}")
        with pytest.raises(ModelPlansError, match="holds no plans. Restore the file that belongs to the model"):
            load(folder)


class TestModel:
    def test_gives_one_network_after_the_other_ready_to_compute(self, make_network: MakeNetwork, make_loaded: MakeLoaded) -> None:
        networks = [make_network(seed=seed) for seed in (0, 1)]
        expected = [{name: value.clone() for name, value in network.state_dict().items()} for network in networks]
        model = make_loaded(*networks)
        model.network.train()
        for network, weights in zip(model.with_each_weights(), expected, strict=True):
            assert not network.training
            assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())

    def test_without_weights_of_its_own_is_the_network_as_it_is(self, make_network: MakeNetwork, make_loaded: MakeLoaded) -> None:
        model = make_loaded(make_network())
        model.weights = ()
        assert [network is model.network for network in model.with_each_weights()] == [True]

    @pytest.mark.parametrize("colours", [1, 3])
    def test_knows_its_image(self, make_network: MakeNetwork, make_loaded: MakeLoaded, colours: int) -> None:
        assert make_loaded(make_network(colours=colours)).colours == colours
        assert not make_loaded(make_network(colours=colours), labels=False).description.segments


SOUND = {"network_weights": {"a": torch.zeros(1)}, "trainer_name": "Fuse4SegTrainer", "inference_allowed_mirroring_axes": (0, 1),
         "recipe": {"training": {"modality_dropout": 0.25}}}
FILE = Path("fold_0", "checkpoint_final.pth")


@pytest.mark.parametrize("change", [{}, {"inference_allowed_mirroring_axes": None}, {"inference_allowed_mirroring_axes": [1]},
                                    {"recipe": None}, {"recipe": {}}])
def test_sound_checkpoints_pass(change: dict[str, Any]) -> None:
    require_predictive({**SOUND, **change}, FILE, dimensions=2)


@pytest.mark.parametrize(("entry", "value"), [
    ("network_weights", None), ("network_weights", {"a": 1.0}), ("trainer_name", 3), ("trainer_name", "../x"),
    ("inference_allowed_mirroring_axes", (2,)), ("inference_allowed_mirroring_axes", (-1,)),
    ("inference_allowed_mirroring_axes", "01"), ("inference_allowed_mirroring_axes", [[0]]),
    ("inference_allowed_mirroring_axes", [0.5]), ("inference_allowed_mirroring_axes", 1), ("recipe", 3),
    ("recipe", {"losses": {}}),
    ("recipe", {"training": {"modality_dropout": "x"}}), ("recipe", {"training": {"modality_dropout": 1.5}})])
def test_others_are_refused_by_the_entry_s_name(entry: str, value: object) -> None:
    with pytest.raises(CheckpointError, match=f"checkpoint_final.pth.* has no usable {entry}. "):
        require_predictive({**SOUND, entry: value}, FILE, dimensions=2)


def test_all_faulty_entries_are_named_at_once() -> None:
    with pytest.raises(CheckpointError, match="no usable network_weights, trainer_name, inference_allowed_mirroring_axes"):
        require_predictive({"inference_allowed_mirroring_axes": 7}, FILE, dimensions=3)


CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(params=[True, False])
def bfloat16(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr("fuse4seg.inference.model.has_bfloat16", lambda _device: request.param)
    return request.param


class TestChoosePrecision:
    def test_is_the_fastest_of_the_device_by_default(self, bfloat16: bool) -> None:
        assert choose_precision("auto", CPU) == (torch.bfloat16 if bfloat16 else torch.float32)
        assert choose_precision("auto", GPU) == torch.float16
        assert choose_precision("auto", torch.device("mps")) == torch.float32

    def test_is_what_was_asked_for(self, bfloat16: bool) -> None:
        assert choose_precision("float32", CPU) == choose_precision("float32", GPU) == torch.float32
        assert choose_precision("float16", GPU) == torch.float16

    @pytest.mark.parametrize("device", [CPU, GPU], ids=str)
    def test_refuses_what_the_device_would_imitate(self, bfloat16: bool, device: torch.device) -> None:
        if bfloat16:
            assert choose_precision("bfloat16", device) == torch.bfloat16
        else:
            with pytest.raises(OptionError, match=r"^--precision: bfloat16 .* Choose one of: auto, float32(, float16)?\.$"):
                choose_precision("bfloat16", device)

    @pytest.mark.parametrize("wanted", ["float16", "half", ""])
    def test_refuses_what_the_device_has_not(self, wanted: str) -> None:
        with pytest.raises(OptionError, match="Choose one of: auto, float32"):
            choose_precision(wanted, CPU)

"""The patch that is looked at: always the same, drawn from nobody's random numbers, and shown as model and labels say."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from fuse4seg.inference import panel
from fuse4seg.training import presence, watched_patch
from fuse4seg.training.run import Training, make_trainer
from fuse4seg.training.state import random_states
from fuse4seg.training.trainer import Fuse4SegTrainer
from fuse4seg.training.watched_patch import EVERY, WatchedPatch

HARDLY = ("pretraining.epochs=0", "training.epochs=12")


@pytest.fixture
def trainer(own_results: Path) -> Fuse4SegTrainer:
    """Initialised, 2D, of three labels."""
    trainer = make_trainer(Training("990", "2d", 0, device="cpu", changes=HARDLY))
    trainer.initialize()
    return trainer


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What panels are made from."""
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(watched_patch, "panel_as_array", lambda **shown: seen.append(shown) or panel.panel_as_array(**shown))
    return seen


def states(trainer: Fuse4SegTrainer) -> list[Any]:
    return [str(state) if not isinstance(state, torch.Tensor) else state.tolist()
            for state in random_states(trainer.device).values()]


class TestWatchedPatch:
    def test_is_the_same_each_time_and_leaves_random_numbers_alone(self, trainer: Fuse4SegTrainer) -> None:
        before = states(trainer)
        first, second = WatchedPatch(trainer), WatchedPatch(trainer)
        assert torch.equal(first.channels, second.channels)
        looks = [patch.look() for patch in (first, second, first)]
        assert states(trainer) == before
        assert looks[0].keys() == looks[1].keys() == looks[2].keys()
        for name, value in looks[0].items():
            np.testing.assert_array_equal(looks[1][name], value)
            np.testing.assert_array_equal(looks[2][name], value)

    def test_shows_what_the_model_makes_of_it(self, trainer: Fuse4SegTrainer, drawn: list[dict[str, Any]]) -> None:
        patch = WatchedPatch(trainer)
        look = patch.look()
        shown, = drawn
        network = trainer.network.eval()
        with torch.no_grad():
            image = network.fuse(patch.channels).fused.image
            logits = network(patch.channels)[0]
        assert len(patch.channels) == 4
        for number in range(4):
            np.testing.assert_array_equal(shown["fused"][:, number], 255 * image[number].numpy())
            np.testing.assert_array_equal(shown["segmentation"][number], logits[number].argmax(dim=0).numpy())
            np.testing.assert_array_equal(shown["reference"][number], patch.target[number, 0].numpy())
        assert shown["reference"].any()
        assert shown["names"] == ["T1", "T1ce", "T2", "FLAIR"]
        assert look["panel"].dtype == np.uint8
        assert look["panel"].ndim == 3

    def test_leaves_out_what_its_cases_lack(self, trainer: Fuse4SegTrainer, drawn: list[dict[str, Any]],
                                            monkeypatch: pytest.MonkeyPatch) -> None:
        """One slice lacks T1ce, and all lack T2: that is not shown. What stands in the channels of both does not matter."""
        trainer.dataset_json = {**trainer.dataset_json, "missing_modalities": True}
        monkeypatch.setattr(presence, "presence_of", lambda _properties, _count: (True, True, False, True))
        patch = WatchedPatch(trainer)
        assert patch.present.tolist() == [[True, True, False, True]] * 4
        assert not patch.channels[:, 2].any()
        patch.present[0, 1] = False
        first = patch.look()
        patch.channels[:, 2], patch.channels[0, 1] = 5, 7
        second = patch.look()
        assert all(np.array_equal(second[name], value) for name, value in first.items())
        assert drawn[0]["names"] == ["T1", "T1ce", "FLAIR"]
        assert len(drawn[0]["sources"]) == 3
        assert not drawn[0]["sources"][1, 0].any()

    def test_sees_a_boundary_that_the_image_shows(self, trainer: Fuse4SegTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
        """Slices that are bright where label 1 is, and dark elsewhere; label 1 of one lies where another has none."""
        patch = WatchedPatch(trainer)
        patch.target = torch.zeros(4, 1, 48, 40)
        patch.target[0, :, 4:24, 4:24] = 1
        patch.target[1, :, 26:44, 20:36] = 1
        image = torch.where(patch.target == 1, 0.9, 0.1).expand(4, 3, 48, 40)
        seen = SimpleNamespace(fused=SimpleNamespace(image=image), sources=torch.rand(4, 4, 48, 40),
                               inside=torch.ones(4, 1, 48, 40), extra=None)
        monkeypatch.setattr(trainer.network, "fuse", lambda _channels, present: seen)
        found = {name: value for name, value in patch.look().items() if name != "panel"}
        label = next(name for name, value in trainer.dataset_json["labels"].items() if value == 1)
        assert found == {f"visibility/surrounding-{label}": pytest.approx(1, abs=0.02)}

    def test_is_looked_at_every_few_epochs_and_in_the_last(self, trainer: Fuse4SegTrainer) -> None:
        patch = WatchedPatch(trainer)
        assert [epoch for epoch in range(12) if patch.is_due(epoch)] == [0, EVERY, 2 * EVERY, 11]


class TestVolume:
    def test_is_shown_as_one(self, own_results: Path, drawn: list[dict[str, Any]]) -> None:
        trainer = make_trainer(Training("990", "3d_fullres", 0, device="cpu", changes=HARDLY))
        trainer.initialize()
        patch = WatchedPatch(trainer)
        patch.look()
        size = tuple(trainer.configuration_manager.patch_size)
        assert drawn[0]["fused"].shape == (3, *size)
        assert drawn[0]["segmentation"].shape == drawn[0]["reference"].shape == size


class TestTruth:
    def patch_of(self, labels: dict[str, Any], order: tuple[int, ...] | None, target: torch.Tensor) -> WatchedPatch:
        patch = WatchedPatch.__new__(WatchedPatch)
        patch.trainer = SimpleNamespace(label_manager=LabelManager(labels, order), dataset_json={"labels": labels})
        patch.target = target
        return patch

    def test_of_regions_is_the_labels_as_they_are_written(self) -> None:
        whole, core, ignored = torch.tensor([[[[1, 1, 0, 0]]], [[[0, 1, 0, 0]]], [[[0, 0, 0, 1]]]]).bool()
        patch = self.patch_of({"background": 0, "whole": (1, 2), "core": 2, "ignore": 3}, (1, 2),
                              torch.stack([whole, core, ignored], dim=1))
        truth = patch._truth()
        np.testing.assert_array_equal(truth, [[[1, 2, 0, 0]]])
        assert patch._classes(truth) == {"1": 1, "2": 2}

    def test_leaves_out_what_is_to_be_ignored(self) -> None:
        patch = self.patch_of({"background": 0, "lesion": 1, "ignore": 2}, None, torch.tensor([[[[0.0, 1, 2]]]]))
        np.testing.assert_array_equal(truth := patch._truth(), [[[0, 1, 0]]])
        assert patch._classes(truth) == {"lesion": 1}

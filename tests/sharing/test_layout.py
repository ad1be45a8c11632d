"""Names in an archive of models, its manifest, and checkpoints taken apart and put together again."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fuse4seg.sharing.layout import SHARED, SharedModel, from_manifest, join_checkpoint, split_checkpoint, to_manifest

MODEL = SharedModel("Dataset501_BraTS", "Fuse4SegTrainer", "Fuse4SegPlans", "2d", ("0", "all"), ("checkpoint_final.pth",),
                    fingerprint=True, doubts=("0",), postprocessing=True)


class TestSharedModel:
    def test_members_are_descriptions_and_two_files_per_checkpoint(self) -> None:
        folder = "Dataset501_BraTS/Fuse4SegTrainer__Fuse4SegPlans__2d"
        assert MODEL.members() == [f"{folder}/{name}" for name in (
            "plans.json", "dataset.json", "dataset_fingerprint.json", "postprocessing.json", "fold_0/validation/doubt.json",
            "fold_0/checkpoint_final.safetensors",
            "fold_0/checkpoint_final.json", "fold_all/checkpoint_final.safetensors", "fold_all/checkpoint_final.json")]

    @pytest.mark.parametrize(("fingerprint", "postprocessing"), [(True, False), (False, True)])
    def test_a_model_is_named_by_its_folder(self, tmp_path: Path, fingerprint: bool, postprocessing: bool) -> None:
        folder = tmp_path / MODEL.dataset / "Fuse4SegTrainer__Fuse4SegPlans__2d"
        folder.mkdir(parents=True)
        if fingerprint:
            (folder / "dataset_fingerprint.json").touch()
        (folder / "fold_0" / "validation").mkdir(parents=True)
        (folder / "fold_0" / "validation" / "doubt.json").touch()
        if postprocessing:
            (folder / "postprocessing.json").touch()
        found = SharedModel.of_folder(folder, folds=[0, "all"], checkpoints=["checkpoint_final.pth"])
        assert found == replace(MODEL, fingerprint=fingerprint, postprocessing=postprocessing)
        with pytest.raises(ValueError, match="is not named TRAINER__PLANS__CONFIGURATION"):
            SharedModel.of_folder(tmp_path, folds=[0], checkpoints=["checkpoint_final.pth"])

    @pytest.mark.parametrize("change", [
        {"dataset": "../Dataset501_BraTS"}, {"dataset": "Dataset5_x"}, {"trainer": "a/b"}, {"plans": "a\\b"},
        {"plans": ".hidden"}, {"configuration": "2d__x"}, {"configuration": "2d."}, {"configuration": ""}, {"folds": ()},
        {"folds": ("0", "0")},
        {"folds": ("-1",)}, {"checkpoints": ("checkpoint_final",)}, {"checkpoints": ("a/b.pth",)}, {"checkpoints": ("a:b.pth",)},
        {"trainer": 3}])
    def test_names_that_may_lead_elsewhere_are_refused(self, change: dict[str, Any]) -> None:
        MODEL.require_safe_names()
        replace(MODEL, trainer="Fuse4SegTrainer-losses.edges=4", plans="Fuse4SegPlans-grey-bilevel.viewing=").require_safe_names()
        with pytest.raises(ValueError, match="is no name that every system takes|is empty or names something twice"):
            replace(MODEL, **change).require_safe_names()

    def test_a_manifest_survives_the_way_through_json(self) -> None:
        manifest = to_manifest([MODEL], {"a": "b"}, {"fuse4seg": "1"})
        assert from_manifest(json.loads(json.dumps(manifest))) == ([MODEL], {"a": "b"})

    @pytest.mark.parametrize(("change", "said"), [
        ({"format": "zip"}, "no manifest of f4s_export_model"), ({"format_version": 2}, "knows up to 1. Update it"),
        ({"format_version": 0}, "format version 0"), ({"format_version": True}, "format version True"),
        ({"models": 7}, "cannot be used"), ({"models": []}, "names no model"),
        ({"models": [asdict(MODEL)] * 2}, "or one twice"),
        ({"models": [{**asdict(MODEL), "fingerprint": 1}]}, "cannot be used"),
        ({"models": [{**asdict(MODEL), "doubts": ["../0"]}]}, "other folds than folds does"),
        ({"models": [{**asdict(MODEL), "postprocessing": None}]}, "cannot be used"), ({"checksums": 7}, "cannot be used")])
    def test_other_manifests_are_refused(self, change: dict[str, Any], said: str) -> None:
        with pytest.raises(ValueError, match=said):
            from_manifest({**to_manifest([MODEL], {}, {}), **change})


@pytest.fixture
def checkpoint() -> dict[str, Any]:
    """With a tensor under two names, one that is part of another, one that is not contiguous, an empty one and a scalar."""
    whole = torch.arange(12.0).reshape(3, 4)
    weights = {"a.weight": whole, "copy.weight": whole, "part": whole[:2], "turned": whole.T, "none": torch.zeros(0),
               "also_none": torch.zeros(0), "steps": torch.tensor(7)}
    return {"network_weights": weights, "init_args": {"configuration": "2d", "fold": 0, "plans": {}, "dataset_json": {}},
            "trainer_name": "Fuse4SegTrainer", "inference_allowed_mirroring_axes": (0, 1), "recipe": {"name": "mine"},
            "current_epoch": 5, "fine_tuned_from": {"model": "a.pth", "sha256": "0f"}, "optimizer_state": {"left": "out"}}


def joined(tensors: dict[str, torch.Tensor], rest: dict[str, Any]) -> dict[str, Any]:
    return join_checkpoint(tensors, rest, plans={"plans": 1}, dataset_json={"labels": 2})


class TestCheckpoints:
    def test_what_predicts_survives_the_way_through_json(self, checkpoint: dict[str, Any]) -> None:
        tensors, rest = split_checkpoint(checkpoint)
        back = joined(tensors, json.loads(json.dumps(rest)))
        assert list(back["network_weights"]) == list(checkpoint["network_weights"])
        for name, weight in checkpoint["network_weights"].items():
            assert torch.equal(back["network_weights"][name], weight)
        assert back["init_args"] == {"plans": {"plans": 1}, "configuration": "2d", "fold": 0, "dataset_json": {"labels": 2}}
        for entry in ("trainer_name", "inference_allowed_mirroring_axes", "recipe", "current_epoch", "fine_tuned_from"):
            assert back[entry] == checkpoint[entry]
        assert "optimizer_state" not in back

    def test_a_tensor_of_two_names_is_stored_once(self, checkpoint: dict[str, Any]) -> None:
        tensors, rest = split_checkpoint(checkpoint)
        assert rest[SHARED] == {"copy.weight": "a.weight"}
        assert set(tensors) == {"a.weight", "part", "turned", "none", "also_none", "steps"}
        assert all(tensor.is_contiguous() for tensor in tensors.values())
        # safetensors refuses tensors that share memory.
        assert len({tensor.untyped_storage().data_ptr() for tensor in tensors.values() if tensor.numel()}) == 4

    @pytest.mark.parametrize(("change", "said"), [
        ({"trainer_name": None}, "lacks or garbles trainer_name"), ({SHARED: []}, "lacks or garbles an entry"),
        ({"order": {}}, "lacks or garbles an entry"), ({"inference_allowed_mirroring_axes": "01"}, "lacks or garbles an entry"),
        ({SHARED: {"copy.weight": "nowhere"}}, "tensors that are not there"),
        ({"order": ["a.weight"]}, "other tensors than are there"),
        ({"order": [3]}, "tensors that are not there"), ({"recipe": 7}, "recipe that is none"),
        *(({"fine_tuned_from": told}, "tells what it was fine-tuned from in another way")
          for told in (3, {}, {"model": "a.pth", "sha256": 1}, {"model": "a\nb", "sha256": ""}))])
    def test_what_does_not_belong_together_is_refused(self, change: dict[str, Any], said: str,
                                                      checkpoint: dict[str, Any]) -> None:
        tensors, rest = split_checkpoint(checkpoint)
        changed = {name: value for name, value in {**rest, **change}.items() if value is not None}
        with pytest.raises(ValueError, match=said):
            joined(tensors, changed)

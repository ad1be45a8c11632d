"""Names in an archive of models, and its manifest."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fuse4seg.sharing.layout import SharedModel, from_manifest, to_manifest

MODEL = SharedModel("Dataset501_BraTS", "Fuse4SegTrainer", "Fuse4SegPlans", "2d", ("0", "all"), ("checkpoint_final.pth",),
                    fingerprint=True)


def test_members_are_descriptions_and_two_files_per_checkpoint() -> None:
    folder = "Dataset501_BraTS/Fuse4SegTrainer__Fuse4SegPlans__2d"
    assert MODEL.members() == [f"{folder}/{name}" for name in (
        "plans.json", "dataset.json", "dataset_fingerprint.json", "fold_0/checkpoint_final.safetensors",
        "fold_0/checkpoint_final.json", "fold_all/checkpoint_final.safetensors", "fold_all/checkpoint_final.json")]


@pytest.mark.parametrize("fingerprint", [True, False])
def test_a_model_is_named_by_its_folder(tmp_path: Path, fingerprint: bool) -> None:
    folder = tmp_path / MODEL.dataset / "Fuse4SegTrainer__Fuse4SegPlans__2d"
    folder.mkdir(parents=True)
    if fingerprint:
        (folder / "dataset_fingerprint.json").touch()
    found = SharedModel.of_folder(folder, folds=[0, "all"], checkpoints=["checkpoint_final.pth"])
    assert found == replace(MODEL, fingerprint=fingerprint)
    with pytest.raises(ValueError, match="is not named TRAINER__PLANS__CONFIGURATION"):
        SharedModel.of_folder(tmp_path, folds=[0], checkpoints=["checkpoint_final.pth"])


@pytest.mark.parametrize("change", [
    {"dataset": "../Dataset501_BraTS"}, {"dataset": "Dataset5_x"}, {"trainer": "a/b"}, {"plans": "a\\b"}, {"plans": ".hidden"},
    {"configuration": "2d__x"}, {"configuration": "2d."}, {"configuration": ""}, {"folds": ()}, {"folds": ("0", "0")},
    {"folds": ("-1",)}, {"checkpoints": ("checkpoint_final",)}, {"checkpoints": ("a/b.pth",)}, {"checkpoints": ("a:b.pth",)},
    {"trainer": 3}])
def test_names_that_may_lead_elsewhere_are_refused(change: dict[str, Any]) -> None:
    MODEL.require_safe_names()
    with pytest.raises(ValueError, match="is no name that every system takes|is empty or names something twice"):
        replace(MODEL, **change).require_safe_names()


def test_a_manifest_survives_the_way_through_json() -> None:
    manifest = to_manifest([MODEL], {"a": "b"}, {"fuse4seg": "1"})
    assert from_manifest(json.loads(json.dumps(manifest))) == ([MODEL], {"a": "b"})


@pytest.mark.parametrize(("change", "said"), [
    ({"format": "zip"}, "no manifest of f4s_export_model"), ({"format_version": 2}, "knows up to 1. Update it"),
    ({"format_version": 0}, "format version 0"), ({"format_version": True}, "format version True"),
    ({"models": 7}, "cannot be used"), ({"models": []}, "names no model"), ({"models": [MODEL.to_plain()] * 2}, "or one twice"),
    ({"models": [{**MODEL.to_plain(), "fingerprint": 1}]}, "cannot be used"), ({"checksums": 7}, "cannot be used")])
def test_other_manifests_are_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        from_manifest({**to_manifest([MODEL], {}, {}), **change})

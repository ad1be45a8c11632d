"""Checkpoints taken apart into tensors and JSON, and put together again."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from fuse4seg.sharing.weights import SHARED, join_checkpoint, split_checkpoint


@pytest.fixture
def checkpoint() -> dict[str, Any]:
    """With a tensor under two names, one that is part of another, one that is not contiguous, an empty one and a scalar."""
    whole = torch.arange(12.0).reshape(3, 4)
    weights = {"a.weight": whole, "copy.weight": whole, "part": whole[:2], "turned": whole.T, "none": torch.zeros(0),
               "also_none": torch.zeros(0), "steps": torch.tensor(7)}
    return {"network_weights": weights, "init_args": {"configuration": "2d", "fold": 0, "plans": {}, "dataset_json": {}},
            "trainer_name": "Fuse4SegTrainer", "inference_allowed_mirroring_axes": (0, 1), "recipe": {"name": "mine"},
            "current_epoch": 5, "optimizer_state": {"left": "out"}}


def joined(tensors: dict[str, torch.Tensor], rest: dict[str, Any]) -> dict[str, Any]:
    return join_checkpoint(tensors, rest, plans={"plans": 1}, dataset_json={"labels": 2})


def test_what_predicts_survives_the_way_through_json(checkpoint: dict[str, Any]) -> None:
    tensors, rest = split_checkpoint(checkpoint)
    back = joined(tensors, json.loads(json.dumps(rest)))
    assert list(back["network_weights"]) == list(checkpoint["network_weights"])
    for name, weight in checkpoint["network_weights"].items():
        assert torch.equal(back["network_weights"][name], weight)
    assert back["init_args"] == {"plans": {"plans": 1}, "configuration": "2d", "fold": 0, "dataset_json": {"labels": 2}}
    for entry in ("trainer_name", "inference_allowed_mirroring_axes", "recipe", "current_epoch"):
        assert back[entry] == checkpoint[entry]
    assert "optimizer_state" not in back


def test_a_tensor_of_two_names_is_stored_once(checkpoint: dict[str, Any]) -> None:
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
    ({"order": [3]}, "tensors that are not there"), ({"recipe": 7}, "recipe that is none")])
def test_what_does_not_belong_together_is_refused(change: dict[str, Any], said: str, checkpoint: dict[str, Any]) -> None:
    tensors, rest = split_checkpoint(checkpoint)
    changed = {name: value for name, value in {**rest, **change}.items() if value is not None}
    with pytest.raises(ValueError, match=said):
        joined(tensors, changed)

"""A checkpoint as tensors, which safetensors writes, and the little else that prediction needs, which JSON takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

#: Under this key the rest says which names share a tensor with which.
SHARED = "shared"
#: Whose type is checked when a checkpoint is put together.
REST = ("trainer_name", "configuration", "fold", "inference_allowed_mirroring_axes", "recipe", "current_epoch")


def split_checkpoint(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors of a checkpoint, each once, and the rest as JSON takes it; what only a resume needs is left out.

    Args:
        state: A checkpoint that predicts.

    Returns:
        The distinct tensors of its network by name, on the CPU, contiguous; and the rest.
    """
    # nnU-Net's U-Net holds its encoder twice.
    first: dict[tuple[Any, ...], str] = {}
    tensors: dict[str, Tensor] = {}
    shared: dict[str, str] = {}
    for name, weight in state["network_weights"].items():
        place = (weight.untyped_storage().data_ptr(), weight.storage_offset(), weight.shape, weight.stride(), weight.dtype)
        if weight.numel() and place in first:
            shared[name] = first[place]
        else:
            first[place] = name
            tensors[name] = weight.detach().cpu().contiguous().clone()
    axes = state["inference_allowed_mirroring_axes"]
    rest = {"trainer_name": state["trainer_name"], "configuration": state["init_args"]["configuration"],
            "fold": state["init_args"].get("fold"), "inference_allowed_mirroring_axes": None if axes is None else list(axes),
            "recipe": state.get("recipe", {}), "current_epoch": state.get("current_epoch"),
            "order": list(state["network_weights"]), SHARED: shared}
    return tensors, rest


def join_checkpoint(tensors: Mapping[str, Tensor], rest: Mapping[str, Any], *, plans: dict[str, Any],
                    dataset_json: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint that f4s_predict and stock nnU-Net take, from what :func:`split_checkpoint` gave.

    Args:
        tensors: By name.
        rest: All else, as it comes out of JSON.
        plans: The model's.
        dataset_json: The model's.

    Raises:
        ValueError: The two do not belong together, or something is missing or of another kind.
    """
    missing = [entry for entry in (*REST, "order", SHARED) if entry not in rest]
    shared, order, axes = rest.get(SHARED), rest.get("order"), rest.get("inference_allowed_mirroring_axes")
    if missing or not isinstance(shared, dict) or not isinstance(order, list) or not isinstance(axes, (list, type(None))):
        raise ValueError(f"lacks or garbles {', '.join(missing) or 'an entry'}")
    if not all(isinstance(name, str) for name in (*order, *shared.values())) or not set(shared.values()) <= set(tensors):
        raise ValueError("names tensors that are not there")
    if len(order) != len(set(order)) or set(order) != {*tensors, *shared} or set(tensors) & set(shared):
        raise ValueError("names other tensors than are there")
    if not isinstance(rest["recipe"], dict):
        raise ValueError("has a recipe that is none")
    return {
        "network_weights": {name: tensors[shared.get(name, name)] for name in order},
        "init_args": {"plans": plans, "configuration": rest["configuration"], "fold": rest["fold"],
                      "dataset_json": dataset_json},
        "trainer_name": rest["trainer_name"],
        "inference_allowed_mirroring_axes": None if axes is None else tuple(axes),
        "recipe": rest["recipe"],
        "current_epoch": rest["current_epoch"],
    }

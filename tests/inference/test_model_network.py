"""What a checkpoint must hold before a network is built for it; building itself is tested where models are loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fuse4seg.errors import CheckpointError
from fuse4seg.inference.model_network import require_predictive

SOUND = {"network_weights": {"a": torch.zeros(1)}, "trainer_name": "Fuse4SegTrainer", "inference_allowed_mirroring_axes": (0, 1),
         "options": {"modality_dropout": 0.25}}
FILE = Path("fold_0", "checkpoint_final.pth")


@pytest.mark.parametrize("change", [{}, {"inference_allowed_mirroring_axes": None}, {"inference_allowed_mirroring_axes": [1]},
                                    {"options": {}}])
def test_sound_checkpoints_pass(change: dict[str, Any]) -> None:
    require_predictive({**SOUND, **change}, FILE, dimensions=2)


@pytest.mark.parametrize(("entry", "value"), [
    ("network_weights", None), ("network_weights", {"a": 1.0}), ("trainer_name", 3), ("trainer_name", "../x"),
    ("inference_allowed_mirroring_axes", (2,)), ("inference_allowed_mirroring_axes", (-1,)),
    ("inference_allowed_mirroring_axes", "01"), ("inference_allowed_mirroring_axes", [[0]]),
    ("inference_allowed_mirroring_axes", [0.5]), ("inference_allowed_mirroring_axes", 1), ("options", 3),
    ("options", {"modality_dropout": "x"}), ("options", {"modality_dropout": 1.5})])
def test_others_are_refused_by_the_entry_s_name(entry: str, value: object) -> None:
    with pytest.raises(CheckpointError, match=f"checkpoint_final.pth.* has no usable {entry}. "):
        require_predictive({**SOUND, entry: value}, FILE, dimensions=2)


def test_all_faulty_entries_are_named_at_once() -> None:
    with pytest.raises(CheckpointError, match="no usable network_weights, trainer_name, inference_allowed_mirroring_axes"):
        require_predictive({"inference_allowed_mirroring_axes": 7}, FILE, dimensions=3)

"""A trained model as prediction uses it: networks, weights of several folds, plans, and how to compute."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import Tensor

from fuse4seg.checkpoint import load_checkpoint, require_same_plans
from fuse4seg.datasets.raw import foreground_classes, read_dataset_json
from fuse4seg.files import write_json
from fuse4seg.inference.model_network import build_fitting, require_predictive
from fuse4seg.inference.model_plans import read_model_plans
from fuse4seg.inference.precision import AUTO, choose_precision
from fuse4seg.networks.fuse_then_segment import FuseThenSegment


@dataclass
class Model:
    """What predicts a case.

    Attributes:
        network: Leader and follower.
        plans: All of them.
        configuration: The one of them that was trained.
        dataset_json: Of the training data.
        device: Where to compute.
        weights: One set per fold, whose logits are averaged; empty for those that the network holds.
        mirror_axes: Axes of the patch; the follower's logits are the mean over its copies, mirrored along all combinations.
        step_size: Of the windows, as a part of the patch, above 0, at most 1.
        precision: Of the follower; the leader computes in float32.
        modality_dropout: That of the training; of several sets of weights the least.
    """

    network: FuseThenSegment
    plans: PlansManager
    configuration: ConfigurationManager
    dataset_json: dict[str, Any]
    device: torch.device
    weights: Sequence[Mapping[str, Tensor]] = field(default=())
    mirror_axes: tuple[int, ...] = ()
    step_size: float = 0.5
    precision: torch.dtype = torch.float32
    modality_dropout: float = 0.0

    @property
    def colours(self) -> int:
        """Channels of the fused image, 1 or 3."""
        return self.network.fusion.colours

    @property
    def segments(self) -> bool:
        """Whether it was trained with labels."""
        return bool(foreground_classes(self.dataset_json))

    @property
    def label_manager(self) -> LabelManager:
        """nnU-Net's."""
        return self.plans.get_label_manager(self.dataset_json)

    @property
    def patch_size(self) -> Sequence[int]:
        """Two axes for a 2D model, which works along Y and X slice by slice."""
        return self.configuration.patch_size

    @property
    def previous_stage(self) -> str | None:
        """Configuration whose segmentations the follower sees, too, where this is a later stage of a cascade."""
        return self.configuration.previous_stage_name

    def with_each_weights(self) -> Iterator[FuseThenSegment]:
        """The network on its device, ready to compute, with one set of weights after the other."""
        for weights in self.weights or (None,):
            if weights is not None:
                self.network.load_state_dict(weights)
            network = self.network.to(self.device).eval()
            if len(self.patch_size) == 2:
                network.segmentation.to(memory_format=torch.channels_last)
            yield network


def write_description(model: Model, output: Path) -> None:
    """Leave dataset.json and plans.json beside predictions, as nnU-Net does: evaluation reads labels and file ending there."""
    write_json(model.dataset_json, output / "dataset.json")
    write_json(model.plans.plans, output / "plans.json")


def load_model(folder: Path, *, folds: Sequence[int | str], checkpoint: str = "checkpoint_final.pth", device: torch.device,
               mirroring: bool = True, step_size: float = 0.5, precision: str = AUTO, trust: bool = False) -> Model:
    """Load trained weights without running any code that a checkpoint or plans might hold or name.

    Args:
        folder: Trainer__Plans__configuration with plans.json, dataset.json and fold_*.
        folds: Folds whose logits are averaged.
        checkpoint: File within each fold's folder.
        device: Where to compute.
        mirroring: Average over mirrored copies, as nnU-Net does.
        step_size: Step of the windows as a part of the patch, above 0, at most 1.
        precision: Of the segmentation network, see :func:`~fuse4seg.inference.precision.choose_precision`. The fusion network
            computes in float32.
        trust: Load whatever it holds, code too; for models whose maker is known.

    Raises:
        CheckpointNotFoundError, CheckpointError: A fold has no usable checkpoint.
        ModelPlansError, DatasetJsonError: plans.json or dataset.json cannot be used.
        UntrustedModelError: The plans name classes that are not known.
        OptionError: The device lacks the precision.
    """
    plans_file = folder / "plans.json"
    plans = PlansManager(read_model_plans(plans_file, trust=trust))
    dataset_json = read_dataset_json(folder)
    paths = [folder / f"fold_{fold}" / checkpoint for fold in folds]
    states = [load_checkpoint(path, trust=trust) for path in paths]
    for state, path in zip(states, paths, strict=True):
        require_same_plans(state, path, plans.plans)
    configuration = plans.get_configuration(states[0]["init_args"]["configuration"])
    for state, path in zip(states, paths, strict=True):
        require_predictive(state, path, dimensions=len(configuration.patch_size))
    weights = [state["network_weights"] for state in states]
    network = build_fitting(plans, configuration, dataset_json, plans_file, weights=dict(zip(paths, weights, strict=True)))
    return Model(network, plans, configuration, dataset_json, device, weights,
                 mirror_axes=tuple(states[0]["inference_allowed_mirroring_axes"] or ()) if mirroring else (),
                 step_size=step_size, precision=choose_precision(precision, device),
                 modality_dropout=min(state["recipe"]["training"]["modality_dropout"] for state in states))

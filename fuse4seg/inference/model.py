"""A trained model as prediction uses it: network, weights of several folds, plans, and how to compute; and how it is loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import Tensor, nn

from fuse4seg import __version__
from fuse4seg.checkpoint import load_checkpoint, require_same_plans
from fuse4seg.datasets.dataset_json import foreground_classes, read_dataset_json
from fuse4seg.errors import OptionError, first_line
from fuse4seg.evaluation.volumes import read_training_volumes
from fuse4seg.farm.farm import Farm
from fuse4seg.files import write_json
from fuse4seg.inference.model_plans import read_model_plans
from fuse4seg.machine import choose_device
from fuse4seg.model_errors import CheckpointError, ModelPlansError
from fuse4seg.networks.fuse_then_segment import FuseThenSegment
from fuse4seg.networks.planned_network import build_network
from fuse4seg.paths import FINAL
from fuse4seg.plans import OURS

Weights = Mapping[str, Tensor]

#: Number formats by name; "auto" is the fastest that the device has hardware for.
PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
AUTO = "auto"
#: Beside predictions.
DESCRIPTIONS = ("dataset.json", "plans.json")


@dataclass(frozen=True)
class ModelDescription:
    """How a model's cases are preprocessed and brought back: plans.json and dataset.json. Can be sent to another process.

    Attributes:
        plans: All of them.
        configuration: The one of them that was trained.
        dataset_json: Of the training data.
        volumes: Millilitres of each label or region in every labelled training case, by its name; empty where not known.
    """

    plans: PlansManager
    configuration: ConfigurationManager
    dataset_json: dict[str, Any]
    volumes: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @property
    def segments(self) -> bool:
        """Whether it was trained with labels."""
        return bool(foreground_classes(self.dataset_json))

    @property
    def label_manager(self) -> LabelManager:
        """nnU-Net's."""
        return self.plans.get_label_manager(self.dataset_json)

    @property
    def reader(self) -> type[BaseReaderWriter]:
        """nnU-Net's, of the dataset's files."""
        return self.plans.image_reader_writer_class

    @property
    def file_ending(self) -> str:
        """Of the dataset's files, and of what is predicted."""
        return self.dataset_json["file_ending"]

    @property
    def previous_stage(self) -> str | None:
        """Configuration whose segmentations the follower sees, too, where this is a later stage of a cascade."""
        return self.configuration.previous_stage_name

    def write(self, folder: Path) -> None:
        """Leave dataset.json and plans.json in ``folder``, as nnU-Net does: evaluation reads labels and file ending there."""
        for name, content in zip(DESCRIPTIONS, (self.dataset_json, self.plans.plans), strict=True):
            write_json(content, folder / name)


@dataclass
class Model:
    """What predicts a case.

    Attributes:
        network: Leader and follower.
        description: Its plans and dataset.json.
        device: Where to compute.
        weights: One set per fold, whose logits are averaged; empty for those that the network holds.
        mirror_axes: Axes of the patch; the follower's logits are the mean over its copies, mirrored along all combinations.
        step_size: Of the windows, as a part of the patch, above 0, at most 1.
        precision: Of the follower; the leader computes in float32.
        modality_dropout: That of the training; of several sets of weights the least.
        again: Loads the same in another process, by :func:`load_model`; None where it is not from a folder.
    """

    network: FuseThenSegment
    description: ModelDescription
    device: torch.device
    weights: Sequence[Weights] = field(default=())
    mirror_axes: tuple[int, ...] = ()
    step_size: float = 0.5
    precision: torch.dtype = torch.float32
    modality_dropout: float = 0.0
    again: Callable[..., Model] | None = None

    @property
    def colours(self) -> int:
        """Channels of the fused image, 1 or 3."""
        return self.network.fusion.colours

    @property
    def patch_size(self) -> Sequence[int]:
        """Two axes for a 2D model, which works along Y and X slice by slice."""
        return self.description.configuration.patch_size

    def with_each_weights(self) -> Iterator[FuseThenSegment]:
        """The network on its device, ready to compute, with one set of weights after the other."""
        for weights in self.weights or (None,):
            if weights is not None:
                self.network.load_state_dict(weights)
            network = self.network.to(self.device).eval()
            if len(self.patch_size) == 2:
                network.segmentation.to(memory_format=torch.channels_last)
            yield network


def load_model(folder: Path, *, folds: Sequence[int | str], checkpoint: str = FINAL, device: torch.device,
               mirroring: bool = True, step_size: float = 0.5, precision: str = AUTO, trust: bool = False) -> Model:
    """Load trained weights without running any code that a checkpoint or plans might hold or name.

    Args:
        folder: Trainer__Plans__configuration with plans.json, dataset.json and fold_*.
        folds: Folds whose logits are averaged.
        checkpoint: File within each fold's folder.
        device: Where to compute.
        mirroring: Average over mirrored copies, as nnU-Net does.
        step_size: Step of the windows as a part of the patch, above 0, at most 1.
        precision: Of the segmentation network, see :func:`choose_precision`. The fusion network
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
    description = ModelDescription(plans, configuration, dataset_json, read_training_volumes(folder))
    return Model(network, description, device, weights,
                 mirror_axes=tuple(states[0]["inference_allowed_mirroring_axes"] or ()) if mirroring else (),
                 step_size=step_size, precision=choose_precision(precision, device),
                 modality_dropout=min(_modality_dropout(state) for state in states),
                 again=partial(load_model, folder.absolute(), folds=tuple(folds), checkpoint=checkpoint, device=device,
                               mirroring=mirroring, step_size=step_size, precision=precision, trust=trust))


def load_for(farm: Farm | None, load: Callable[..., Model], *, device: str | None = None, precision: str = AUTO) -> Model:
    """A model to compute with here, or as it is on a farm's workers; then it only tells of itself.

    Args:
        farm: Where it will predict; None for this process.
        load: :func:`load_model` with all but device and precision.
        device: In this process; None for the best one here.
        precision: As for :func:`load_model`.

    Raises:
        OptionError: The workers do not have the precision, or not all the same by "auto".
    """
    if farm is None:
        return load(device=choose_device(device), precision=precision)
    place = torch.device(farm.device)
    agreed = farm.agreed(choose_precision, precision, place, flag="--precision")
    return replace(load(device=torch.device("cpu"), precision="float32"), device=place, precision=agreed)


def load_again(model: Model) -> Callable[[], Model]:
    """Loads a model in another process, for the device and the precision that it has here."""
    return partial(model.again, device=model.device, precision=str(model.precision).removeprefix("torch."))


def _modality_dropout(state: Mapping[str, Any]) -> float:
    """That of the recipe; 0 of a checkpoint by nnU-Net's own trainer, which follows none."""
    return state["recipe"]["training"]["modality_dropout"] if state.get("recipe") else 0.0


def require_predictive(state: Mapping[str, Any], path: Path, *, dimensions: int) -> None:
    """Make sure that a checkpoint holds what prediction takes from it.

    Args:
        state: Its content.
        path: Its file.
        dimensions: Axes of the patch, 2 or 3.

    Raises:
        CheckpointError: Something is missing or of another kind.
    """
    weights, axes = state.get("network_weights"), state.get("inference_allowed_mirroring_axes")
    try:
        dropout = _modality_dropout(state)
    except (LookupError, TypeError):
        dropout = None
    sound = {
        "network_weights": isinstance(weights, dict) and all(isinstance(weight, Tensor) for weight in weights.values()),
        "trainer_name": isinstance(state.get("trainer_name"), str) and state["trainer_name"].isidentifier(),
        "inference_allowed_mirroring_axes": axes is None or (isinstance(axes, (list, tuple))
                                                             and all(type(axis) is int and axis in range(dimensions)
                                                                     for axis in axes)),
        "recipe": isinstance(dropout, (int, float)) and 0 <= dropout <= 1,
    }
    faulty = [entry for entry, is_sound in sound.items() if not is_sound]
    if faulty:
        raise CheckpointError(path, f"has no usable {', '.join(faulty)}. Give one that f4s_train wrote.")


def build_fitting(plans: PlansManager, configuration: ConfigurationManager, dataset_json: dict[str, Any], plans_file: Path, *,
                  weights: Mapping[Path, Weights]) -> FuseThenSegment:
    """The network that the plans describe, uninitialised.

    Args:
        plans: From :func:`~fuse4seg.inference.model_plans.read_model_plans`.
        configuration: One of its configurations.
        dataset_json: The model's.
        plans_file: Where the plans are from.
        weights: Of each checkpoint, by its file; one at least.

    Raises:
        ModelPlansError: No network can be built from the plans.
        CheckpointError: It is none of ours, or weights do not fit it.
    """
    # Without memory first: what plans ask for is bounded by the weights only once these are known to fit.
    with torch.device("meta"):
        outline = _build(plans, configuration, dataset_json, plans_file)
    if not isinstance(outline, FuseThenSegment):
        raise CheckpointError(next(iter(weights)), "is no model of Fuse4Seg. Predict with the tool that trained it.")
    expected = _shapes(outline.state_dict())
    for path, found in weights.items():
        if _shapes(found) != expected:
            raise CheckpointError(path, f"does not fit {plans_file}. Restore the plans it was trained with.")
    network = _build(plans, configuration, dataset_json, plans_file)
    for path, found in weights.items():
        try:
            network.load_state_dict(found)
        except (RuntimeError, TypeError) as error:
            raise CheckpointError(path, f"does not fit {plans_file}. Restore the plans it was trained with.") from error
    return network


def _shapes(weights: Weights) -> dict[str, torch.Size]:
    return {name: weight.shape for name, weight in weights.items()}


def _build(plans: PlansManager, configuration: ConfigurationManager, dataset_json: dict[str, Any], plans_file: Path) -> nn.Module:
    try:
        return build_network(plans, configuration, dataset_json)
    except Exception as error:
        reason = first_line(error, kind=True)
        made_by = (plans.plans.get(OURS) or {}).get("version", "unknown")
        # Other versions' networks have other arguments.
        mend = {"mend": "Plan and train again"} if isinstance(error, TypeError) else {}
        raise ModelPlansError(plans_file, f"describes no network that can be built ({reason}); it was made by version {made_by}, "
                                          f"this is {__version__}", **mend) from error


def choose_precision(wanted: str, device: torch.device) -> torch.dtype:
    """The number format for a device.

    Args:
        wanted: One of PRECISIONS, or "auto": float16 on a GPU, as nnU-Net; bfloat16 on a processor that has it; else float32.
        device: Where the network computes.

    Raises:
        OptionError: The device has no hardware for it, or there is no such format.
    """
    fast = {"cuda": ("float16",), "cpu": ()}.get(device.type)
    fast = () if fast is None else (*fast, *["bfloat16"] * has_bfloat16(device))
    if wanted == AUTO:
        return PRECISIONS[fast[0] if fast else "float32"]
    if wanted not in ("float32", *fast):
        raise OptionError("--precision", f"{wanted} is not to be had on {device.type} here. "
                                         f"Choose one of: {', '.join([AUTO, 'float32', *fast])}.")
    return PRECISIONS[wanted]


def has_bfloat16(device: torch.device) -> bool:
    """Whether a GPU, or this processor, multiplies bfloat16; elsewhere PyTorch imitates it, slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name)() for name in asked if hasattr(torch.cpu, name))

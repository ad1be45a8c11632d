"""nnU-Net's predictor in two passes: fuse the whole image once, then slide windows over the fused image."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import torch
from batchgenerators.utilities.file_and_folder_operations import load_json
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor

from fuse4seg.errors import CheckpointError, OptionError
from fuse4seg.inference.fuse_image import WholeImage, fuse_whole_image
from fuse4seg.networks.fuse_then_segment import FuseThenSegment
from fuse4seg.nnunet_output import logged_prints
from fuse4seg.training.checkpoint import load_checkpoint, require_same_plans


class Fuse4SegPredictor(nnUNetPredictor):
    """nnU-Net's sliding window on the image that the leader fused once, and on those of its mirrored copies.

    Attributes:
        seen: What the follower saw since the last :meth:`forget`, one entry per set of weights.
        present: Which modalities the case at hand has; None for all, also after :meth:`forget`.
        want_attention: Keep attention maps, too.
        modality_dropout: That of the training; of several sets of weights the least.
    """

    def __init__(self, *, device: torch.device, use_mirroring: bool = True, tile_step_size: float = 0.5,
                 want_attention: bool = False) -> None:
        with logged_prints():
            super().__init__(tile_step_size=tile_step_size, use_mirroring=use_mirroring, device=device, allow_tqdm=False)
        self.want_attention = want_attention
        self.seen: list[WholeImage] = []
        self.present: tuple[bool, ...] | None = None
        self.modality_dropout = 0.0

    def forget(self) -> None:
        """Drop what was seen, and what was absent; call before each case."""
        self.seen, self.present = [], None

    @torch.inference_mode()
    def predict_sliding_window_return_logits(self, input_image: Tensor) -> Tensor:
        """Logits (classes, Z, Y, X) of a preprocessed case (C, Z, Y, X); the fused image is appended to ``seen``.

        With mirroring, every mirrored copy of the input is fused and segmented, and what the follower saw of the unmirrored
        one is kept. Mirroring the fused image instead would be cheaper, but the leader paints patterns that depend on
        orientation: on real cases the follower understood their mirror images badly (Dice .31 instead of .68).
        """
        model = self.network.to(self.device).eval()
        self.seen.append(self._fuse(model, input_image, want_attention=self.want_attention))
        logits = self._segment(model, self.seen[-1].shown, input_image)
        mirrored = self._mirrored_axes(input_image)
        for axes in mirrored:
            copy = input_image.flip(axes)
            logits += self._segment(model, self._fuse(model, copy, want_attention=False).shown, copy).flip(axes)
        return logits / (1 + len(mirrored))

    @torch.inference_mode()
    def fuse_preprocessed_data(self, image: Tensor) -> None:
        """Fuse a preprocessed case (C, Z, Y, X) with every set of weights into ``seen``, and segment nothing."""
        for weights in self.list_of_parameters:
            self.network.load_state_dict(weights)
            self.seen.append(self._fuse(self.network.to(self.device).eval(), image, want_attention=self.want_attention))

    def _mirrored_axes(self, image: Tensor) -> list[tuple[int, ...]]:
        """Axes of (C, Z, Y, X) that each mirrored copy is flipped along; nothing where mirroring is off."""
        if not self.use_mirroring or not self.allowed_mirroring_axes:
            return []
        first = image.ndim - len(self.configuration_manager.patch_size)
        axes = [first + axis for axis in self.allowed_mirroring_axes]
        return [chosen for count in range(1, len(axes) + 1) for chosen in combinations(axes, count)]

    def _fuse(self, model: FuseThenSegment, image: Tensor, *, want_attention: bool) -> WholeImage:
        return fuse_whole_image(model, image, patch_size=self.configuration_manager.patch_size, device=self.device,
                                present=self.present, want_attention=want_attention)

    def _segment(self, model: FuseThenSegment, shown: Tensor, image: Tensor) -> Tensor:
        """nnU-Net's sliding window with the follower alone, unmirrored."""
        mirroring, self.use_mirroring, self.network = self.use_mirroring, False, model.segmentation
        try:
            return super().predict_sliding_window_return_logits(torch.cat([shown, image[model.modalities:]]))
        finally:
            self.use_mirroring, self.network = mirroring, model


def load_predictor(model_folder: Path, *, folds: Sequence[int | str], checkpoint: str = "checkpoint_final.pth",
                   device: torch.device, use_mirroring: bool = True, tile_step_size: float = 0.5,
                   want_attention: bool = False) -> Fuse4SegPredictor:
    """Load trained weights without running any code that a checkpoint might hold.

    Args:
        model_folder: Folder Trainer__Plans__configuration with plans.json, dataset.json and fold_*.
        folds: Folds whose logits are averaged.
        checkpoint: File within each fold's folder.
        device: Where to compute.
        use_mirroring: Average over mirrored copies, as nnU-Net does.
        tile_step_size: Step of the windows as a part of the patch, above 0, at most 1.
        want_attention: Keep attention maps.

    Raises:
        CheckpointNotFoundError, CheckpointError: A fold has no usable checkpoint.
        OptionError: The model needs the labels of another stage.
    """
    plans = PlansManager(load_json(str(model_folder / "plans.json")))
    dataset_json = load_json(str(model_folder / "dataset.json"))
    paths = [model_folder / f"fold_{fold}" / checkpoint for fold in folds]
    states = [load_checkpoint(path) for path in paths]
    for state, path in zip(states, paths, strict=True):
        require_same_plans(state, path, plans.plans)
    configuration = plans.get_configuration(states[0]["init_args"]["configuration"])
    if configuration.previous_stage_name is not None:
        raise OptionError("-c", f"{model_folder} is the second stage of a cascade, which cannot be predicted yet. "
                                "Choose a configuration of its own, such as 3d_fullres.")
    network = get_network_from_plans(
        configuration.network_arch_class_name, configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import, determine_num_input_channels(plans, configuration, dataset_json),
        plans.get_label_manager(dataset_json).num_segmentation_heads, allow_init=False, deep_supervision=False)
    parameters = [state["network_weights"] for state in states]
    _require_fit(network, parameters, model_folder, folds, checkpoint)
    predictor = Fuse4SegPredictor(device=device, use_mirroring=use_mirroring, tile_step_size=tile_step_size,
                                  want_attention=want_attention)
    predictor.manual_initialization(network, plans, configuration, parameters, dataset_json, states[0]["trainer_name"],
                                    states[0]["inference_allowed_mirroring_axes"])
    predictor.modality_dropout = min(state.get("options", {}).get("modality_dropout", 0.0) for state in states)
    return predictor


def _require_fit(network: torch.nn.Module, parameters: list[dict], model_folder: Path, folds: Sequence[int | str],
                 checkpoint: str) -> None:
    for fold, weights in zip(folds, parameters, strict=True):
        path = model_folder / f"fold_{fold}" / checkpoint
        if not isinstance(network, FuseThenSegment):
            raise CheckpointError(path, "is no model of Fuse4Seg. Predict with the tool that trained it.")
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            raise CheckpointError(path, f"does not fit {model_folder / 'plans.json'}. Restore the plans it was "
                                        f"trained with.") from error

"""nnU-Net's predictor in two passes: fuse the whole image once, then slide windows over the fused image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor

from fuse4seg.datasets.raw import read_dataset_json
from fuse4seg.inference.fuse_image import WholeImage, fuse_whole_image, joined
from fuse4seg.inference.model_network import build_fitting, require_predictive
from fuse4seg.inference.model_plans import read_model_plans
from fuse4seg.inference.precision import AUTO, choose_precision
from fuse4seg.inference.sliding_window import mirrored_copies, segment_windows
from fuse4seg.networks.fuse_then_segment import FuseThenSegment
from fuse4seg.nnunet_output import logged_prints
from fuse4seg.training.checkpoint import load_checkpoint, require_same_plans

#: Voxels of slices that a 2D model works on at a time.
VOXELS_IN_BLOCK = 2**21


class Fuse4SegPredictor(nnUNetPredictor):
    """nnU-Net's sliding window, with its mirrored copies, on the image that the leader fused once.

    Attributes:
        seen: What the follower saw since the last :meth:`forget`, one entry per set of weights.
        present: Which modalities the case at hand has; None for all, also after :meth:`forget`.
        want_attention: Keep attention maps, too.
        precision: Of the follower; the leader computes in float32.
        modality_dropout: That of the training; of several sets of weights the least.
        mirror_fused: Mirror the fused image, as every training did that went into the weights. Else mirrored copies of the
            input are fused anew: the leader paints patterns that depend on orientation, and a follower that never saw them
            mirrored understands them badly (on real cases Dice .31 instead of .68).
    """

    def __init__(self, *, device: torch.device, use_mirroring: bool = True, tile_step_size: float = 0.5,
                 want_attention: bool = False, precision: torch.dtype = torch.float32) -> None:
        with logged_prints():
            super().__init__(tile_step_size=tile_step_size, use_mirroring=use_mirroring, device=device, allow_tqdm=False)
        self.want_attention, self.precision = want_attention, precision
        self.seen: list[WholeImage] = []
        self.present: tuple[bool, ...] | None = None
        self.modality_dropout = 0.0
        self.mirror_fused = False

    def forget(self) -> None:
        """Drop what was seen, and what was absent; call before each case."""
        self.seen, self.present = [], None

    @torch.inference_mode()
    def predict_sliding_window_return_logits(self, input_image: Tensor) -> Tensor:
        """Logits (classes, Z, Y, X) of a preprocessed case (C, Z, Y, X); the fused image is appended to ``seen``."""
        model = self.network.to(self.device).eval()
        if len(self.configuration_manager.patch_size) == 2:
            model.segmentation.to(memory_format=torch.channels_last)
        blocks = input_image.split(self._slices_at_once(input_image), dim=1)
        seen: list[WholeImage] = []
        logits, start = None, 0
        for block in blocks:
            part = self._segment_block(model, block, seen)
            if logits is None:
                # Half precision, as nnU-Net keeps them: whole cases are large.
                logits = torch.empty(len(part), *input_image.shape[1:], dtype=torch.half)
            logits[:, start:start + block.shape[1]] = part
            start += block.shape[1]
        self.seen.append(joined(seen))
        return logits

    def _segment_block(self, model: FuseThenSegment, block: Tensor, seen: list[WholeImage]) -> Tensor:
        """Logits (classes, Z, Y, X), float32, of a block that nothing outside of it bears on; adds to ``seen`` what was seen."""
        seen.append(self._fuse(model, block, want_attention=self.want_attention))
        if self.mirror_fused:
            return self._segment(model, seen[-1].shown, block, mirror_axes=self._mirror_axes)
        logits = self._segment(model, seen[-1].shown, block)
        _, *mirrored = mirrored_copies(self._mirror_axes, first=block.ndim - len(self.configuration_manager.patch_size))
        for axes in mirrored:
            copy = block.flip(axes)
            logits += self._segment(model, self._fuse(model, copy, want_attention=False).shown, copy).flip(axes)
        return logits / (1 + len(mirrored))

    @property
    def _mirror_axes(self) -> tuple[int, ...]:
        """Axes of the patch to mirror along."""
        return tuple(self.allowed_mirroring_axes or ()) if self.use_mirroring else ()

    def _slices_at_once(self, image: Tensor) -> int:
        """Slices in a block, to bound memory: a 2D model sees each by itself, a 3D model the whole volume."""
        if len(self.configuration_manager.patch_size) == 3:
            return image.shape[1]
        return max(1, VOXELS_IN_BLOCK // image[0, 0].numel())

    @torch.inference_mode()
    def fuse_preprocessed_data(self, image: Tensor) -> None:
        """Fuse a preprocessed case (C, Z, Y, X) with every set of weights into ``seen``, and segment nothing."""
        for weights in self.list_of_parameters:
            self.network.load_state_dict(weights)
            self.seen.append(self._fuse(self.network.to(self.device).eval(), image, want_attention=self.want_attention))

    @property
    def previous_stage(self) -> str | None:
        """Configuration whose segmentations the follower sees, too, where this is a later stage of a cascade."""
        return self.configuration_manager.previous_stage_name

    def _fuse(self, model: FuseThenSegment, image: Tensor, *, want_attention: bool) -> WholeImage:
        return fuse_whole_image(model, image, patch_size=self.configuration_manager.patch_size, device=self.device,
                                present=self.present, want_attention=want_attention)

    def _segment(self, model: FuseThenSegment, shown: Tensor, image: Tensor, *, mirror_axes: Sequence[int] = ()) -> Tensor:
        """The follower alone, in windows; a cascade's labels lie behind the modalities of ``image``."""
        return segment_windows(model.segmentation, torch.cat([shown, image[model.modalities:]]),
                               patch_size=self.configuration_manager.patch_size, step_size=self.tile_step_size,
                               device=self.device, precision=self.precision, mirror_axes=mirror_axes, read=model.read,
                               on_grid=model.reading_grid)


def load_predictor(model_folder: Path, *, folds: Sequence[int | str], checkpoint: str = "checkpoint_final.pth",
                   device: torch.device, use_mirroring: bool = True, tile_step_size: float = 0.5,
                   want_attention: bool = False, precision: str = AUTO, trust: bool = False) -> Fuse4SegPredictor:
    """Load trained weights without running any code that a checkpoint or plans might hold or name.

    Args:
        model_folder: Folder Trainer__Plans__configuration with plans.json, dataset.json and fold_*.
        folds: Folds whose logits are averaged.
        checkpoint: File within each fold's folder.
        device: Where to compute.
        use_mirroring: Average over mirrored copies, as nnU-Net does.
        tile_step_size: Step of the windows as a part of the patch, above 0, at most 1.
        want_attention: Keep attention maps.
        precision: Of the segmentation network, see :func:`~fuse4seg.inference.precision.choose_precision`. The fusion network
            computes in float32.
        trust: Load whatever it holds, code too; for models whose maker is known.

    Raises:
        CheckpointNotFoundError, CheckpointError: A fold has no usable checkpoint.
        ModelPlansError, DatasetJsonError: plans.json or dataset.json cannot be used.
        UntrustedModelError: The plans name classes that are not known.
        OptionError: The device lacks the precision.
    """
    plans_file = model_folder / "plans.json"
    plans = PlansManager(read_model_plans(plans_file, trust=trust))
    dataset_json = read_dataset_json(model_folder)
    paths = [model_folder / f"fold_{fold}" / checkpoint for fold in folds]
    states = [load_checkpoint(path, trust=trust) for path in paths]
    for state, path in zip(states, paths, strict=True):
        require_same_plans(state, path, plans.plans)
    configuration = plans.get_configuration(states[0]["init_args"]["configuration"])
    for state, path in zip(states, paths, strict=True):
        require_predictive(state, path, dimensions=len(configuration.patch_size))
    parameters = [state["network_weights"] for state in states]
    network = build_fitting(plans, configuration, dataset_json, plans_file, weights=dict(zip(paths, parameters, strict=True)))
    predictor = Fuse4SegPredictor(device=device, use_mirroring=use_mirroring, tile_step_size=tile_step_size,
                                  want_attention=want_attention, precision=choose_precision(precision, device))
    predictor.manual_initialization(network, plans, configuration, parameters, dataset_json, states[0]["trainer_name"],
                                    states[0]["inference_allowed_mirroring_axes"])
    options = [state.get("options", {}) for state in states]
    predictor.modality_dropout = min(known.get("modality_dropout", 0.0) for known in options)
    predictor.mirror_fused = all(known.get("bilevel", {}).get("mirror_fused") for known in options)
    return predictor

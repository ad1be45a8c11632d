"""Prediction from Python: arrays or files of one case in, arrays with their geometry out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fuse4seg.datasets.dataset_json import channel_names, label_values
from fuse4seg.datasets.images import Geometry
from fuse4seg.datasets.presence import with_absent
from fuse4seg.datasets.raw import Case
from fuse4seg.errors import FaultyImageError, MissingModalityError
from fuse4seg.evaluation.postprocessing import apply_rules, read_rules
from fuse4seg.inference.find_model import model_in, trained_previous_stage
from fuse4seg.inference.input_space import to_labels
from fuse4seg.inference.model import AUTO, load_model
from fuse4seg.inference.predict_case import CasePrediction, predict_case, segment_fused
from fuse4seg.inference.preprocess_case import preprocess, preprocessed_images, previous_labels
from fuse4seg.nnunet_output import logged_prints
from fuse4seg.paths import FINAL

#: What a case of arrays is called in messages.
UNNAMED = "given as arrays"


@dataclass(frozen=True)
class Prediction:
    """What was made of one case, on the grid of its input.

    Attributes:
        segmentation: Label values, shape (Z, Y, X); None from a model without labels.
        fused: What each fold segmented, as exported: uint8, shape (folds, C, Z, Y, X), C 3 (red, green, blue) or 1 (grey).
        probabilities: float32, shape (classes, Z, Y, X), where asked for.
        spacing: Millimetres along Z, Y, X.
        properties: nnU-Net's, with the reader's geometry of files (origin, direction).
    """

    segmentation: np.ndarray | None
    fused: np.ndarray
    probabilities: np.ndarray | None
    spacing: tuple[float, ...]
    properties: dict[str, Any]


class Predictor:
    """A trained model, loaded once.

    Args:
        model: Folder Trainer__Plans__configuration.
        folds: Whose logits are averaged; None for all trained ones.
        checkpoint: File in each fold.
        device: Where to compute; None for a GPU where there is one.
        mirroring: Average over mirrored copies.
        step_size: Of the windows, as a part of the patch.
        precision: Of the segmentation network, see :func:`~fuse4seg.inference.model.choose_precision`.
        postprocessing: Apply the rules that f4s_find_best_configuration left beside the model.

    Raises:
        UnreadableRecordError: These rules cannot be read.
        ModelNotFoundError, CheckpointError: There is no such model, or it cannot be read.
        OptionError: The device lacks the precision.

    Example:
        >>> from fuse4seg import Predictor  # doctest: +SKIP
        >>> Predictor("Fuse4SegTrainer__Fuse4SegPlans__2d").predict(["a_0000.nii.gz", "a_0001.nii.gz"])  # doctest: +SKIP
    """

    def __init__(self, model: Path | str, *, folds: Sequence[int | str] | None = None,
                 checkpoint: str = FINAL, device: torch.device | str | None = None, mirroring: bool = True,
                 step_size: float = 0.5, precision: str = AUTO,
                 postprocessing: bool = True) -> None:
        self._model = model_in(Path(model), folds=None if folds is None else tuple(folds), checkpoint=checkpoint)
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._settings = {"device": place, "mirroring": mirroring, "step_size": step_size, "precision": precision}
        self._loaded = load_model(self._model.folder, folds=self._model.folds, checkpoint=checkpoint, **self._settings)
        known = label_values(self._loaded.description.dataset_json)
        self._rules = read_rules([self._model.folder], known=known) if postprocessing else ()

    @property
    def modalities(self) -> list[str]:
        """Names of the channels, in the order that :meth:`predict` takes them."""
        return channel_names(self._loaded.description.dataset_json)

    def predict(self, images: Sequence[Path | str | np.ndarray | None], *, spacing: Sequence[float] | None = None,
                probabilities: bool = False, previous_stage: Path | str | np.ndarray | None = None) -> Prediction:
        """Fuse and segment one case.

        Args:
            images: One for each modality, in their order: all files, or all arrays of one shape (Z, Y, X); None for an absent
                modality, but not for all.
            spacing: Of arrays, millimetres along Z, Y, X; files have their own.
            probabilities: Also give these.
            previous_stage: For the second stage of a cascade: what the first segmented, label values (Z, Y, X) on the images'
                grid, or a file beside files. None to have the first stage, trained beside this one, segment it now.

        Raises:
            PreviousStageNotFoundError: The first stage is needed, and not trained.
            PreviousStageError: Its segmentation is on another grid, or holds other labels than the dataset.
            MissingModalityError: A file does not exist.
            FaultyImageError, UnreadableImageError: Shapes or geometries differ, or an image is constant or not finite.
            ValueError: There are more or fewer images than modalities, files are mixed with arrays, a spacing is missing, or
                given for files, or there is a segmentation for a model that is no second stage.
        """
        present = self._require_modalities(images)
        given = [image for image in images if image is not None]
        of_arrays = all(isinstance(image, np.ndarray) for image in given)
        if not of_arrays and (any(isinstance(image, np.ndarray) for image in given) or spacing is not None):
            raise ValueError("give all modalities as files, or all as arrays with their spacing")
        previous = self._previous(images, spacing, previous_stage)
        if of_arrays:
            channels, properties = self._of_arrays(images, present, spacing, previous)
        else:
            channels, properties = self._of_files([None if image is None else Path(image) for image in images], previous)
        with logged_prints():
            made = predict_case(self._loaded, channels, properties, present=None if all(present) else present)
        return self._finished(made, probabilities=probabilities)

    def segment(self, fused: np.ndarray, *, spacing: Sequence[float], probabilities: bool = False) -> Prediction:
        """Segment a case from its fused images alone; the labels are those of :meth:`predict`, voxel for voxel.

        Args:
            fused: As :meth:`predict` gave it, uint8, shape (folds, C, Z, Y, X).
            spacing: Millimetres along Z, Y, X.
            probabilities: Also give these.

        Raises:
            ValueError: It has another shape or type, or the model segments nothing, or also needs a previous stage's labels.
        """
        model = self._loaded
        if not model.description.segments or model.description.previous_stage is not None:
            raise ValueError("the model segments no fused image by itself: it has no labels, or is the second stage of a cascade")
        shape = (max(1, len(model.weights)), model.colours)
        if fused.dtype != np.uint8 or fused.ndim != 5 or fused.shape[:2] != shape:
            raise ValueError(f"fused must be uint8 of shape {shape} and (Z, Y, X), got {fused.dtype} of shape {fused.shape}")
        return self._finished(segment_fused(model, fused, spacing), probabilities=probabilities)

    def _require_modalities(self, images: Sequence[object]) -> tuple[bool, ...]:
        names = self.modalities
        if len(images) != len(names) or all(image is None for image in images):
            raise ValueError(f"the model fuses {', '.join(names)}: give one image for each, None for an absent one, "
                             f"and one at least; got {len(images)}")
        return tuple(image is not None for image in images)

    @cached_property
    def _first_stage(self) -> Predictor:
        found = trained_previous_stage(self._model, self._loaded.description)
        return Predictor(found.folder, folds=found.folds, checkpoint=found.checkpoint, postprocessing=False,
                         **self._settings)

    def _previous(self, images: Sequence[Path | str | np.ndarray | None], spacing: Sequence[float] | None,
                  given: Path | str | np.ndarray | None) -> Path | np.ndarray | None:
        """What a cascade's first stage segmented; None from a model that has none."""
        if self._loaded.description.previous_stage is None:
            if given is not None:
                raise ValueError("the model is no second stage of a cascade: leave previous_stage out")
            return None
        if given is None:
            return self._first_stage.predict(images, spacing=spacing).segmentation
        if spacing is not None and not isinstance(given, np.ndarray):
            raise ValueError("give previous_stage as an array where the modalities are arrays")
        return given if isinstance(given, np.ndarray) else Path(given)

    def _of_files(self, images: Sequence[Path | None], previous: Path | np.ndarray | None) -> tuple[torch.Tensor, dict[str, Any]]:
        for name, image in zip(self.modalities, images, strict=True):
            if image is not None and not image.is_file():
                raise MissingModalityError(image.name, name, image, "Give None for an absent modality.")
        there = [image for image in images if image is not None]
        # A file that is not there stands for an absent modality.
        case = Case(there[0].name, tuple(image or there[0].with_name(f".absent_{number}") for number, image in enumerate(images)))
        channels, properties = preprocessed_images(case, self._loaded.description, previous=previous)
        return torch.from_numpy(channels), properties

    def _of_arrays(self, images: Sequence[np.ndarray | None], present: tuple[bool, ...],
                   spacing: Sequence[float] | None, previous: np.ndarray | None) -> tuple[torch.Tensor, dict[str, Any]]:
        there = [image for image in images if image is not None]
        if spacing is None or len(spacing) != 3 or not all(step > 0 for step in spacing):
            raise ValueError("arrays need their spacing, three lengths in millimetres along Z, Y, X")
        for name, image in zip(self.modalities, images, strict=True):
            if image is None:
                continue
            if image.ndim != 3 or image.shape != there[0].shape:
                raise FaultyImageError(UNNAMED, f"{name} has shape {image.shape}, not (Z, Y, X) as the others. Resample it.")
            if not np.isfinite(image).all() or image.min() == image.max():
                raise FaultyImageError(UNNAMED, f"{name} is constant, or holds NaN or infinite intensities. Replace them.")
        labels, description = None, self._loaded.description
        if previous is not None:
            labels = previous_labels(previous, UNNAMED, expected=Geometry(there[0].shape, tuple(spacing)),
                                     reader=description.reader, dataset_json=description.dataset_json)
        stacked = with_absent(np.stack(there).astype(np.float32), present)
        channels, properties = preprocess([stacked], {"spacing": [float(step) for step in spacing]}, description, labels=labels)
        return torch.from_numpy(channels), properties

    def _finished(self, made: CasePrediction, *, probabilities: bool) -> Prediction:
        model, labels, shares = self._loaded, None, None
        if made.logits is not None:
            labels, shares = to_labels(made.logits, made.space, description=model.description, want_probabilities=probabilities)
            labels = apply_rules(labels, self._rules, spacing=made.space["spacing"])
        return Prediction(labels, np.stack(made.fused), shares, tuple(made.space["spacing"]), made.space)

"""The streams of batches of a training, drawn and augmented as by nnU-Net."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA

from fuse4seg.datasets.raw import foreground_classes
from fuse4seg.machine import require_memory, require_shared_memory
from fuse4seg.training.data import PREFETCHED, BatchStream, SeededBatches, foreground_share, without_intensity_changes

if TYPE_CHECKING:
    from fuse4seg.training.trainer import Fuse4SegTrainer

#: Streams of random batches within one training.
TRAIN_STREAM, VALIDATION_STREAM, PRETRAIN_STREAM = range(3)
#: float32 and int16, as nnU-Net hands them over.
CHANNEL_BYTES, LABEL_BYTES = 4, 2


def batch_stream(trainer: Fuse4SegTrainer, loader: nnUNetDataLoader, *, stream: int, start: int) -> BatchStream:
    """Seeded batches in background processes.

    Args:
        trainer: Initialised.
        loader: Makes the batches.
        stream: Which of the training's streams.
        start: Number of the first batch.
    """
    options, training = trainer.options, stream == TRAIN_STREAM
    shown = training and trainer.segments
    batches = SeededBatches(loader, seed=options.seed, stream=stream, modalities=trainer.network.modalities,
                            modality_dropout=options.modality_dropout if training else 0.0,
                            flip_axes=(trainer.inference_allowed_mirroring_axes or ()) if shown else (),
                            viewing=options.bilevel.viewing if shown else ())
    return BatchStream(batches, start=start, workers=workers_of(stream), pin_memory=trainer.device.type == "cuda")


def workers_of(stream: int) -> int:
    """Background processes of a stream: nnU-Net's number, a quarter of it for validation, at least 1."""
    workers = max(1, get_allowed_n_proc_DA())
    return workers if stream != VALIDATION_STREAM else max(1, workers // 4)


def batch_makers(trainer: Fuse4SegTrainer) -> tuple[nnUNetDataLoader, nnUNetDataLoader]:
    """nnU-Net's data loaders of training and validation, with its sampling and augmentation."""
    trainer.dataset_class = trainer.dataset_class or infer_dataset_class(trainer.preprocessed_dataset_folder)
    configuration, manager = trainer.configuration_manager, trainer.label_manager
    patch, scales = configuration.patch_size, trainer._get_deep_supervision_scales()
    rotation, dummy_2d, initial_patch, mirror_axes = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    labels = {"is_cascaded": trainer.is_cascaded, "foreground_labels": manager.foreground_labels,
              "regions": manager.foreground_regions if manager.has_regions else None, "ignore_label": manager.ignore_label}
    augmented = trainer.get_training_transforms(patch, rotation, scales, mirror_axes, dummy_2d,
                                                use_mask_for_norm=configuration.use_mask_for_norm, **labels)
    if not foreground_classes(trainer.dataset_json):
        augmented = without_intensity_changes(augmented)
    plain = trainer.get_validation_transforms(scales, **labels)
    train, validation = trainer.get_tr_and_val_datasets()
    make = partial(nnUNetDataLoader, final_patch_size=patch, label_manager=manager,
                   probabilistic_oversampling=trainer.probabilistic_oversampling)
    size = trainer.batch_size
    # As in nnU-Net one share for both: pseudo Dice depends on it.
    share = foreground_share(size, trainer.oversample_foreground_percent)
    return (make(train, size, initial_patch, transforms=augmented, oversample_foreground_percent=share),
            make(validation, size, patch, transforms=plain, oversample_foreground_percent=share))


def require_memory_for_batches(trainer: Fuse4SegTrainer) -> None:
    """Make sure, before any of them starts, that what the background processes prepare ahead finds room.

    While the training validates or saves, they fill what they may; without room, the system kills them.

    Raises:
        NotEnoughMemoryError: /dev/shm or the memory is too small.
    """
    workers = workers_of(TRAIN_STREAM) + workers_of(VALIDATION_STREAM)
    voxels = trainer.batch_size * math.prod(trainer.configuration_manager.patch_size)
    needed = workers * PREFETCHED * voxels * (CHANNEL_BYTES * trainer.num_input_channels + LABEL_BYTES)
    task = f"preparing batches in {workers} processes"
    require_shared_memory(needed, task=task, mend="Give a container more (docker run --shm-size=2g), or use fewer processes "
                                                  "(nnUNet_n_proc_DA=1).")
    if trainer.device.type == "cpu":
        # Parameters, gradients, and two moments of Adam or one of SGD; activations come on top.
        needed += 3 * sum(weight.nbytes for weight in trainer.network.parameters())
    require_memory(needed, task=f"training with {workers} processes for batches",
                   mend="End other programs, use fewer processes (nnUNet_n_proc_DA=1), or plan smaller batches "
                        "(f4s_plan_experiment --max_batch_size).")

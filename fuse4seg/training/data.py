"""Seeded batches: nnU-Net's sampling and augmentation, repeatable whatever the number of workers."""

from __future__ import annotations

import copy
import itertools
import math
import random
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA
from torch.utils.data import DataLoader, Dataset, Sampler
from torch.utils.data._utils.signal_handling import _remove_worker_pids

from fuse4seg.datasets.dataset_json import may_lack_channels
from fuse4seg.errors import WorkerDiedError
from fuse4seg.launch import ranks_here
from fuse4seg.machine import require_memory, require_shared_memory
from fuse4seg.networks.samples import samples_of
from fuse4seg.ranks import own_slice
from fuse4seg.steps.viewing import draw_viewing
from fuse4seg.training.presence import NotingDataset, draw_present, sampling_probabilities, what_is_left, without_absent

if TYPE_CHECKING:
    from fuse4seg.training.trainer import Fuse4SegTrainer

Batch = dict[str, Any]
#: Batches that each background process prepares ahead.
PREFETCHED = 3
#: Set the draws of absent modalities, of flips and of changes of the fused image apart, those of each sample's crop and
#: augmentation, which they leave as they are, and those of what stays where a case lacks all that dropout keeps.
DROPOUT, FLIPS, CHANGES, SAMPLES, LIKING = 1, 2, 3, 4, 5
#: Streams of random batches within one training.
TRAIN_STREAM, VALIDATION_STREAM, PRETRAIN_STREAM, WATCHED_STREAM = range(4)
#: float32 and int16, as nnU-Net hands them over.
CHANNEL_BYTES, LABEL_BYTES = 4, 2


@contextmanager
def seeded(*entropy: int) -> Iterator[None]:
    """Seed Python's, NumPy's and PyTorch's CPU generators from ``entropy``, and give their states back afterwards."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    words = np.random.SeedSequence(entropy).generate_state(2, dtype=np.uint32)
    with torch.random.fork_rng(devices=[]):
        random.seed(int(words[0]))
        np.random.seed(words)
        torch.default_generator.manual_seed(int(words[0]) << 32 | int(words[1]))
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)


class SeededBatches(Dataset[Batch]):
    """Batch number i of a stream, or some of its samples; sample j is drawn from (seed, stream, i, j) alone.

    Args:
        loader: nnU-Net's data loader with its transforms, of whole batches.
        seed: The training's seed.
        stream: Tells streams of one training apart (pre-training, training, validation).
        modalities: How many there are, before a cascade's channels.
        modality_dropout: Probability that a sample goes without a modality, in [0, 1).
        flip_axes: Axes of the patch along which the follower sees every other sample mirrored, chosen at random.
        viewing: Changes under which the follower sees the fused image.
        places: Of the samples in the batch; None for all.
        incomplete: Whether cases may lack modalities, so that every batch says what each sample has.
    """

    def __init__(self, loader: nnUNetDataLoader, *, seed: int, stream: int, modalities: int = 1,
                 modality_dropout: float = 0.0, flip_axes: Sequence[int] = (), viewing: Sequence[str] = (),
                 places: range | None = None, incomplete: bool = False) -> None:
        self.loader, self.seed, self.stream = loader, seed, stream
        self.modalities, self.modality_dropout, self.flip_axes = modalities, modality_dropout, tuple(flip_axes)
        self.viewing, self.incomplete = tuple(viewing), incomplete
        self.places = range(loader.batch_size) if places is None else places

    def __getitem__(self, index: int) -> Batch:
        """One batch: data (B, N, *S), target (a list under deep supervision), keys (case names).

        With modality dropout also present: True where a sample keeps a modality, bool of shape (B, N). The data stay whole.
        So of cases that may lack modalities; what they lack is 0 in the data.
        With axes to flip also flips: True where the follower is to see a sample mirrored, bool of shape (B, axes of the patch).
        With changes also viewing, as :func:`~fuse4seg.steps.viewing.draw_viewing` gives it.
        """
        batch = _together([self._sample(index, place) for place in self.places])
        whole, drawn = self.loader.batch_size, {}
        if self.modality_dropout:
            drawn["present"] = draw_present(self._random_numbers(index, DROPOUT), whole, modalities=self.modalities,
                                            dropout=self.modality_dropout)
        if self.flip_axes:
            drawn["flips"] = draw_flips(self._random_numbers(index, FLIPS), whole, axes=batch["data"].ndim - 2,
                                        chosen=self.flip_axes)
        if self.viewing:
            drawn["viewing"] = draw_viewing(self._random_numbers(index, CHANGES), whole, changes=self.viewing)
        if self.incomplete:
            drawn["liking"] = torch.from_numpy(self._random_numbers(index, LIKING).random((whole, self.modalities)))
        own = samples_of(drawn, slice(self.places.start, self.places.stop))
        return {**batch, **(_of_what_is_there(batch, **own) if self.incomplete else own)}

    def _random_numbers(self, index: int, of: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, self.stream, index, of))

    def _sample(self, index: int, place: int) -> Batch:
        """A batch of the one sample, which holds foreground where the whole batch has it at that place."""
        alone = copy.copy(self.loader)
        alone.batch_size, alone.get_do_oversample = 1, lambda _: self.loader.get_do_oversample(place)
        if self.incomplete:
            alone._data = NotingDataset(self.loader._data, self.modalities)
        with seeded(self.seed, self.stream, index, SAMPLES, place):
            sample = alone.generate_train_batch()
        return {**sample, "present": torch.tensor([alone._data.present])} if self.incomplete else sample


def _of_what_is_there(batch: Batch, *, liking: torch.Tensor, present: torch.Tensor | None = None, **drawn: torch.Tensor) -> Batch:
    """What is drawn for a batch, by what its cases have, which it says as present; and the data without anything else."""
    there = batch["present"]
    return {**drawn, "data": without_absent(batch["data"], there),
            "present": there if present is None else what_is_left(there, present, liking)}


def _together(samples: Sequence[Batch]) -> Batch:
    """One batch of several: data and targets, lists of these part by part, and the keys."""
    def joined(parts: Sequence[Any]) -> Any:
        if isinstance(parts[0], torch.Tensor):
            return torch.cat(list(parts))
        if isinstance(parts[0], list) and isinstance(parts[0][0], torch.Tensor):
            return [joined(resolution) for resolution in zip(*parts, strict=True)]
        return [one for part in parts for one in part]

    return {name: joined([sample[name] for sample in samples]) for name in samples[0]}


class _From(Sampler[int]):
    """All whole numbers from ``start`` on."""

    def __init__(self, start: int) -> None:
        self.start = start

    def __iter__(self) -> Iterator[int]:
        return itertools.count(self.start)


def _as_it_is(batch: Batch) -> Batch:
    return batch


def _leave_interrupts_to_the_main_process(_worker: int) -> None:
    """A terminal sends Ctrl-C to all processes; the training still needs its batch, and ends its workers itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def _signals_left_alone() -> Iterator[None]:
    """Take PyTorch's handler of dead workers away again.

    It raises wherever the main thread happens to be, in the middle of a step. ``next`` finds dead workers by itself.
    """
    main = threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGCHLD")
    before = signal.getsignal(signal.SIGCHLD) if main else None
    yield
    if before is not None:
        signal.signal(signal.SIGCHLD, before)


#: What the main process meets when a worker dies while it hands over a tensor.
CUT_OFF = (ConnectionError, EOFError, FileNotFoundError)


def _tells_of_a_death(error: Exception) -> bool:
    """PyTorch names a dead worker by its pid; errors that a worker itself met arrive as "Caught ..."."""
    if isinstance(error, CUT_OFF):
        return not str(error).startswith("Caught ")
    return str(error).startswith(("DataLoader worker (pid", "Pin memory thread exited"))


class BatchStream:
    """Endless batches in order, prepared by background processes.

    Args:
        batches: What to draw from.
        start: Number of the first batch.
        workers: Background processes; 0 prepares batches in this one.
        pin_memory: For faster transfers to a GPU.
    """

    def __init__(self, batches: SeededBatches, *, start: int = 0, workers: int = 0, pin_memory: bool = False) -> None:
        loader = DataLoader(batches, batch_size=None, sampler=_From(start), num_workers=workers, collate_fn=_as_it_is,
                            prefetch_factor=PREFETCHED if workers else None, pin_memory=pin_memory,
                            worker_init_fn=_leave_interrupts_to_the_main_process)
        with _signals_left_alone():
            self._iterator = iter(loader)
        self._workers = workers

    def __iter__(self) -> BatchStream:
        return self

    def __next__(self) -> Batch:
        """The next batch.

        Raises:
            WorkerDiedError: A background process was killed.
        """
        try:
            return next(self._iterator)
        except (RuntimeError, *CUT_OFF) as error:
            if self._workers and _tells_of_a_death(error):
                self.close()
                raise WorkerDiedError("preparing batches", mend="Use fewer of them (nnUNet_n_proc_DA=1).") from error
            raise

    def close(self) -> None:
        """End the background processes at once; a second time does nothing.

        PyTorch ends them in good order, for which it needs a lock: one that was killed while it held it would be waited for
        for ever. It also lists their pids by the iterator's address, which a later iterator may get, and refuses that one while
        they stand there.
        """
        if not self._workers or self._iterator._shutdown:
            return
        self._iterator._shutdown = True
        for worker in self._iterator._workers:
            worker.kill()
        for worker in self._iterator._workers:
            worker.join()
        _remove_worker_pids(id(self._iterator))
        self._iterator._worker_pids_set = False


def draw_flips(random_numbers: np.random.Generator, samples: int, *, axes: int, chosen: Sequence[int]) -> torch.Tensor:
    """Each sample flipped along each of the ``chosen`` axes with probability 1/2, by itself.

    Returns:
        Bool of shape (samples, axes), False for axes that are not chosen.
    """
    flips = random_numbers.random((samples, axes)) < 0.5
    return torch.from_numpy(flips & np.isin(np.arange(axes), chosen))


def without_intensity_changes(transform: BasicTransform) -> BasicTransform:
    """Leave nnU-Net's noise, blur, contrast and gamma out; returns ``transform``.

    Fusion without labels learns to give back what it sees, noise and blur, too.
    """
    transform.transforms = [part for part in transform.transforms if not isinstance(part, RandomTransform)]
    return transform


def without_timing(transform: BasicTransform) -> BasicTransform:
    """Stop nnU-Net's blur from choosing its algorithm by a stopwatch, by which runs differ; returns ``transform``."""
    for part in [transform, *getattr(transform, "transforms", [])]:
        blur = getattr(part, "transform", part)
        if isinstance(blur, GaussianBlurTransform):
            blur.benchmark = False
    return transform


def foreground_share(batch_size: int, share: float) -> float:
    """Part of a batch that must hold foreground, so that each level's half gets as much as nnU-Net gives a batch of its size.

    nnU-Net puts such samples at a batch's end. Of four it makes one, and one of the two levels would never get any; its Dice loss
    then says nothing of rare classes.

    Args:
        batch_size: Of both levels together, at least 2.
        share: nnU-Net's, in [0, 1].

    Returns:
        In [0, 1]; ``share`` itself where a half is one sample, of which no part can be taken.
    """
    half = batch_size // 2
    forced = half - round(half * (1 - share))
    return 2 * forced / batch_size if forced else share


def batch_stream(trainer: Fuse4SegTrainer, loader: nnUNetDataLoader, *, stream: int, start: int) -> BatchStream:
    """Seeded batches in background processes.

    Args:
        trainer: Initialised.
        loader: Makes the batches.
        stream: Which of the training's streams.
        start: Number of the first batch.
    """
    recipe, training = trainer.recipe, stream == TRAIN_STREAM
    shown = training and trainer.segments
    flipped = shown and recipe.bilevel.mirroring
    batches = SeededBatches(loader, seed=trainer.seed, stream=stream, modalities=trainer.network.modalities,
                            modality_dropout=recipe.training.modality_dropout if training else 0.0,
                            flip_axes=(trainer.inference_allowed_mirroring_axes or ()) if flipped else (),
                            viewing=recipe.bilevel.viewing if shown else (), places=own_slice(trainer.batch_size),
                            incomplete=may_lack_channels(trainer.dataset_json))
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
    if not trainer.segments:
        augmented = without_intensity_changes(augmented)
    plain = trainer.get_validation_transforms(scales, **labels)
    train, validation = trainer.get_tr_and_val_datasets()
    make = partial(nnUNetDataLoader, final_patch_size=patch, label_manager=manager,
                   probabilistic_oversampling=trainer.probabilistic_oversampling)
    size = trainer.batch_size
    # As in nnU-Net one share for both: pseudo Dice depends on it.
    share = foreground_share(size, trainer.oversample_foreground_percent)
    drawn = sampling_probabilities(train, trainer.network.modalities) if may_lack_channels(trainer.dataset_json) else None
    return (make(train, size, initial_patch, transforms=augmented, oversample_foreground_percent=share,
                 sampling_probabilities=drawn),
            make(validation, size, patch, transforms=plain, oversample_foreground_percent=share))


def require_memory_for_batches(trainer: Fuse4SegTrainer) -> None:
    """Make sure, before any of them starts, that what the background processes prepare ahead finds room.

    While the training validates or saves, they fill what they may; without room, the system kills them.

    Raises:
        NotEnoughMemoryError: /dev/shm or the memory is too small.
    """
    workers = workers_of(TRAIN_STREAM) + workers_of(VALIDATION_STREAM)
    # Of all ranks on this machine, which make theirs at the same time.
    samples = len(own_slice(trainer.batch_size)) * ranks_here()
    voxels = samples * math.prod(trainer.configuration_manager.patch_size)
    needed = workers * PREFETCHED * voxels * (CHANNEL_BYTES * trainer.num_input_channels + LABEL_BYTES)
    task = f"preparing batches in {workers} processes"
    require_shared_memory(needed, task=task, mend="Give a container more (docker run --shm-size=2g), or use fewer processes "
                                                  "(nnUNet_n_proc_DA=1).")
    if trainer.device.type == "cpu":
        # Parameters, gradients, and two moments of Adam or one of SGD; activations come on top.
        needed += 3 * sum(weight.nbytes for weight in trainer.network.parameters())
    require_memory(needed, task=f"training with {workers} processes for batches",
                   mend="End other programs, use fewer processes (nnUNet_n_proc_DA=1), or plan smaller batches "
                        "(f4s_plan_experiment --set patches.largest_batch=N).")

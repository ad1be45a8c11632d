"""Batches: seeded, repeatable whatever the number of workers, drawn as nnU-Net draws them, and with room for them."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch.utils.data._utils import signal_handling

from fuse4seg.errors import NotEnoughMemoryError, WorkerDiedError
from fuse4seg.recipes.recipe import VIEWING
from fuse4seg.steps.viewing import UNCHANGED
from fuse4seg.training import data as loaders
from fuse4seg.training.data import (
    PREFETCHED,
    PRETRAIN_STREAM,
    TRAIN_STREAM,
    VALIDATION_STREAM,
    BatchStream,
    SeededBatches,
    batch_makers,
    batch_stream,
    draw_flips,
    foreground_share,
    require_memory_for_batches,
    seeded,
    without_intensity_changes,
    without_timing,
    workers_of,
)
from fuse4seg.training.run import Training, make_trainer
from fuse4seg.training.trainer import Fuse4SegTrainer

MakeStream = Callable[..., BatchStream]


class Samples:
    """What nnU-Net's loader says of itself: how many samples a batch has, and which of them must hold foreground."""

    def __init__(self, batch_size: int = 1) -> None:
        self.batch_size = batch_size
        self.get_do_oversample = self.is_last

    def is_last(self, place: int) -> bool:
        return place == self.batch_size - 1


class DrawingLoader(Samples):
    """Draws from all three generators, as nnU-Net's sampling and augmentation do."""

    def __init__(self, batch_size: int = 3, *shape: int) -> None:
        super().__init__(batch_size)
        self.shape = shape

    def generate_train_batch(self) -> dict[str, Any]:
        samples = range(self.batch_size)
        return {"data": torch.rand(self.batch_size, *self.shape), "target": torch.from_numpy(np.random.rand(self.batch_size, 2)),
                "keys": [f"{random.random()} {self.get_do_oversample(place)}" for place in samples],
                "process": [os.getpid() for _ in samples]}


class TransformingLoader(Samples):
    """nnU-Net's own transforms on one image."""

    def __init__(self, transforms: ComposeTransforms) -> None:
        super().__init__()
        self.transforms = transforms
        self.image = torch.rand(2, 24, 24, generator=torch.Generator().manual_seed(0))

    def generate_train_batch(self) -> dict[str, Any]:
        given = {"image": self.image.clone(), "segmentation": (self.image[:1] > 0.5).to(torch.int16)}
        changed = self.transforms(**given)
        return {"data": changed["image"], "target": changed["segmentation"], "keys": ["case"]}


class FailingLoader(Samples):
    def __init__(self, error: type[Exception]) -> None:
        super().__init__()
        self.error = error

    def generate_train_batch(self) -> dict[str, Any]:
        raise self.error("case 7 cannot be used")


def transforms() -> ComposeTransforms:
    return nnUNetTrainer.get_training_transforms((24, 24), (-np.pi, np.pi), [[1, 1], [0.5, 0.5]], (0, 1), False)


def batches(loader: Any = None, *, seed: int = 0, stream: int = 0, dropout: float = 0.0, flip_axes: Sequence[int] = (),
            viewing: Sequence[str] = (), places: range | None = None, incomplete: bool = False) -> SeededBatches:
    return SeededBatches(loader or DrawingLoader(), seed=seed, stream=stream, modalities=2, modality_dropout=dropout,
                         flip_axes=flip_axes, viewing=viewing, places=places, incomplete=incomplete)


def numbers(drawn: dict[str, Any]) -> tuple[list[float], list[float], list[str]]:
    return drawn["data"].tolist(), drawn["target"].tolist(), drawn["keys"]


def states() -> tuple[Any, Any, torch.Tensor]:
    return random.getstate(), np.random.get_state(), torch.get_rng_state()


def assert_states(before: tuple[Any, Any, torch.Tensor]) -> None:
    assert random.getstate() == before[0]
    np.testing.assert_equal(np.random.get_state(), before[1])
    assert torch.equal(torch.get_rng_state(), before[2])


class CaseLoader(DrawingLoader):
    """Gives the sample of a case at random, as nnU-Net's loader takes it from its dataset."""

    HAS = {"whole": {}, "lacking": {"present": [False, True]}}

    def __init__(self, batch_size: int = 3) -> None:
        super().__init__(batch_size, 2, 3)
        self._data: Any = self

    def load_case(self, case: str) -> tuple[Any, ...]:
        return None, None, None, self.HAS[case]

    def generate_train_batch(self) -> dict[str, Any]:
        batch = super().generate_train_batch()
        batch["keys"] = [random.choice(list(self.HAS)) for _ in range(self.batch_size)]
        for case in batch["keys"]:
            self._data.load_case(case)
        return batch


class TestSeeded:
    def test_makes_all_three_generators_repeat_themselves(self) -> None:
        draws = []
        for _ in range(2):
            with seeded(3, 1, 4):
                draws.append((random.random(), np.random.rand(), torch.rand(1).item()))
        assert draws[0] == draws[1]

    def test_gives_the_generators_states_back(self) -> None:
        before = states()
        with seeded(1):
            random.random(), np.random.rand(3), torch.rand(3)
        assert_states(before)

    def test_gives_them_back_after_a_failure(self) -> None:
        before = states()
        with pytest.raises(ZeroDivisionError), seeded(1):
            torch.rand(3), np.random.rand(3), 1 / 0
        assert_states(before)

    def test_does_not_depend_on_what_was_drawn_before(self) -> None:
        with seeded(5):
            first = torch.rand(1)
        torch.rand(100), np.random.rand(100)
        with seeded(5):
            assert torch.equal(torch.rand(1), first)

    def test_tells_every_word_apart(self) -> None:
        entropies = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (0, 1, 1), (2**40, 0, 1)]
        draws = set()
        for entropy in entropies:
            with seeded(*entropy):
                draws.add((torch.rand(1).item(), np.random.rand(), random.random()))
        assert len({draw[0] for draw in draws}) == len({draw[1] for draw in draws}) == len(entropies)


class TestSeededBatches:
    def test_batch_depends_on_its_number_alone(self) -> None:
        first, second = batches(), batches()
        in_order = [numbers(first[index]) for index in range(4)]
        assert [numbers(second[index]) for index in (3, 1, 0, 2)] == [in_order[index] for index in (3, 1, 0, 2)]
        assert len({str(drawn) for drawn in in_order}) == 4

    @pytest.mark.parametrize("other", [{"seed": 1}, {"stream": 1}])
    def test_seeds_and_streams_differ(self, other: dict[str, int]) -> None:
        assert all(numbers(batches()[index]) != numbers(batches(**other)[index]) for index in range(4))

    def test_leaves_the_training_s_own_generators_alone(self) -> None:
        before = states()
        batches(viewing=VIEWING, dropout=0.5)[7]
        assert_states(before)

    def test_samples_of_cases_that_may_lack_modalities_say_what_they_have(self) -> None:
        """Nothing else is changed but that what they lack is 0, as noise makes something of zeros."""
        said = []
        for index in range(5):
            whole, told = batches(CaseLoader())[index], batches(CaseLoader(), incomplete=True)[index]
            assert whole["keys"] == told["keys"]
            assert torch.equal(whole["target"], told["target"])
            assert told["present"].tolist() == [[case == "whole", True] for case in told["keys"]]
            assert torch.equal(told["data"], torch.where(told["present"][..., None], whole["data"], 0.0))
            said += told["keys"]
        assert set(said) == {"whole", "lacking"}

    def test_dropout_takes_from_what_they_have_and_leaves_one(self) -> None:
        left = []
        for index in range(30):
            thinned, told = (batches(loader, dropout=0.5, incomplete=lacks)[index]
                             for loader, lacks in ((DrawingLoader(3, 2, 3), False), (CaseLoader(), True)))
            whole = torch.tensor([case == "whole" for case in told["keys"]])
            assert torch.equal(told["present"][whole], thinned["present"][whole])
            assert told["present"][~whole].tolist() == [[False, True]] * int((~whole).sum())
            left.append(told["present"][whole])
        assert not torch.cat(left).all()

    def test_parts_of_a_batch_are_what_they_are_in_it_of_incomplete_cases_too(self) -> None:
        whole = batches(CaseLoader(4), dropout=0.5, incomplete=True)[3]
        parts = [batches(CaseLoader(4), dropout=0.5, incomplete=True, places=range(start, start + 2))[3] for start in (0, 2)]
        for name in ("data", "present"):
            assert torch.equal(torch.cat([part[name] for part in parts]), whole[name])

    def test_modality_dropout_changes_nothing_but_what_is_present(self) -> None:
        """The loader draws three samples."""
        for index in range(4):
            whole, thinned = batches()[index], batches(dropout=0.4)[index]
            assert numbers(whole) == numbers(thinned)
            assert "present" not in whole
            assert thinned["present"].shape == (3, 2)

    @pytest.mark.parametrize("other", [{"seed": 1}, {"stream": 1}])
    def test_what_is_present_depends_on_seed_stream_and_number_alone(self, other: dict[str, int]) -> None:
        drawn = [torch.cat([source[index]["present"] for index in range(20)])
                 for source in (batches(dropout=0.4), batches(dropout=0.4), batches(dropout=0.4, **other))]
        assert torch.equal(drawn[0], drawn[1])
        assert not torch.equal(drawn[0], drawn[2])
        assert not torch.equal(drawn[0][:3], drawn[0][3:6])

    @pytest.mark.parametrize("viewing", [VIEWING, ("noise",), ("blur", "window")])
    def test_changes_of_the_fused_image_change_nothing_else(self, viewing: tuple[str, ...]) -> None:
        """The loader draws three samples; each kind of draw has numbers of its own."""
        for index in range(4):
            plain, shown = batches(dropout=0.4)[index], batches(dropout=0.4, viewing=viewing)[index]
            assert numbers(plain) == numbers(shown)
            assert torch.equal(plain["present"], shown["present"])
            assert "viewing" not in plain
            assert shown["viewing"].shape == (3, len(UNCHANGED))
            assert torch.equal(shown["viewing"], batches(viewing=viewing)[index]["viewing"])

    @pytest.mark.parametrize("other", [{"seed": 1}, {"stream": 1}])
    def test_changes_of_the_fused_image_depend_on_seed_stream_and_number_alone(self, other: dict[str, int]) -> None:
        drawn = [torch.cat([source[index]["viewing"] for index in range(20)])
                 for source in (batches(viewing=VIEWING), batches(viewing=VIEWING), batches(viewing=VIEWING, **other))]
        assert torch.equal(drawn[0], drawn[1])
        assert not torch.equal(drawn[0], drawn[2])
        assert not torch.equal(drawn[0][:3], drawn[0][3:6])

    def test_of_some_changes_draws_what_it_draws_of_all(self) -> None:
        for index in range(8):
            some, whole = (batches(viewing=viewing)[index]["viewing"] for viewing in (("gamma",), VIEWING))
            assert torch.equal(some[:, 1], whole[:, 1])
            others = [column for column in range(len(UNCHANGED)) if column != 1]
            assert torch.equal(some[:, others], torch.tensor(UNCHANGED)[others].expand(3, -1))

    def test_flips_samples_along_the_axes_asked_for(self) -> None:
        for index in range(4):
            plain, flipped = (batches(DrawingLoader(3, 2, 5, 6), flip_axes=axes, viewing=VIEWING)[index] for axes in ((), (1,)))
            assert "flips" not in plain
            assert torch.equal(plain["data"], flipped["data"])
            assert torch.equal(plain["viewing"], flipped["viewing"])
            assert flipped["flips"].shape == (3, 2)
            assert not flipped["flips"][:, 0].any()


    @pytest.mark.parametrize("ranks", [2, 3, 6])
    def test_of_some_places_are_those_of_the_whole_batch(self, ranks: int) -> None:
        """Whatever is drawn, foreground that is forced, too: so several processes see what one sees."""
        options = {"dropout": 0.4, "flip_axes": (0, 1), "viewing": VIEWING}
        whole, each = batches(DrawingLoader(6, 2, 5, 6), **options), 6 // ranks
        parts = [batches(DrawingLoader(6, 2, 5, 6), **options, places=range(rank * each, (rank + 1) * each))
                 for rank in range(ranks)]
        for index in range(3):
            wanted, found = whole[index], [part[index] for part in parts]
            for name in ("data", "target", "present", "flips", "viewing"):
                assert torch.equal(torch.cat([part[name] for part in found]), wanted[name]), name
            assert [key for part in found for key in part["keys"]] == wanted["keys"]
            assert [key.endswith("True") for key in wanted["keys"]] == [False] * 5 + [True]
            assert len({sample.sum().item() for sample in wanted["data"]}) == 6


class TestDrawFlips:
    def test_flips_along_each_chosen_axis_half_of_the_samples_by_itself(self) -> None:
        flips = draw_flips(np.random.default_rng(0), 20_000, axes=3, chosen=(0, 2)).double().numpy()
        np.testing.assert_allclose(flips.mean(axis=0), [0.5, 0, 0.5], atol=4 * 0.5 / 20_000**0.5)
        assert abs(np.corrcoef(flips[:, 0], flips[:, 2])[0, 1]) < 0.03

    def test_draws_the_same_of_an_axis_whatever_others_are_chosen(self) -> None:
        some, whole = (draw_flips(np.random.default_rng(5), 50, axes=3, chosen=chosen) for chosen in ((1,), (0, 1, 2)))
        assert torch.equal(some[:, 1], whole[:, 1])
        assert whole.any(dim=0).all()


class TestBatchStream:
    @pytest.fixture
    def make(self) -> Iterator[MakeStream]:
        """Makes streams, and ends their workers with the test: a traceback would keep them alive for the next one."""
        streams: list[BatchStream] = []

        def make(batches: SeededBatches, *, start: int = 0, workers: int = 0) -> BatchStream:
            streams.append(BatchStream(batches, start=start, workers=workers))
            return streams[-1]

        yield make
        for stream in streams:
            stream.close()

    @pytest.mark.parametrize("workers", [0, 1, 2])
    @pytest.mark.parametrize("start", [0, 5])
    def test_gives_the_same_batches_from_any_number_of_workers(self, workers: int, start: int, make: MakeStream) -> None:
        expected = [numbers(batches(seed=2)[index]) for index in range(start, start + 5)]
        drawn = list(islice(make(batches(seed=2), start=start, workers=workers), 5))
        assert [numbers(batch) for batch in drawn] == expected
        assert len({batch["process"][0] for batch in drawn} - {os.getpid()}) == workers

    @pytest.mark.parametrize("workers", [0, 2])
    def test_gives_the_same_absences_and_changes_from_any_number_of_workers(self, workers: int, make: MakeStream) -> None:
        source = batches(dropout=0.4, viewing=VIEWING)
        expected = [source[index] for index in range(3, 8)]
        drawn = list(islice(make(batches(dropout=0.4, viewing=VIEWING), start=3, workers=workers), 5))
        for name in ("present", "viewing"):
            assert all(torch.equal(found[name], wanted[name]) for found, wanted in zip(drawn, expected, strict=True))

    @pytest.mark.parametrize("workers", [0, 2])
    def test_repeats_nnu_net_s_own_augmentation(self, workers: int, make: MakeStream) -> None:
        source = batches(TransformingLoader(without_timing(transforms())))
        expected = [source[index] for index in range(12)]
        repeated = batches(TransformingLoader(without_timing(transforms())))
        for drawn, wanted in zip(islice(make(repeated, workers=workers), 12), expected, strict=True):
            assert torch.equal(drawn["data"], wanted["data"])
            assert all(torch.equal(*pair) for pair in zip(drawn["target"], wanted["target"], strict=True))
        assert len({batch["data"].sum().item() for batch in expected}) > 6

    # The other worker may wait for a lock that the killed one held; PyTorch then needs some seconds to end it.
    @pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
    def test_names_a_killed_worker(self, workers: int, make: MakeStream) -> None:
        stream = make(batches(), workers=workers)
        os.kill(next(stream)["process"][0], signal.SIGKILL)
        with pytest.raises(WorkerDiedError, match="preparing batches.*nnUNet_n_proc_DA=1"):
            list(islice(stream, 10 * workers))

    def test_a_worker_killed_with_the_lock_in_its_hands_is_not_waited_for(self, make: MakeStream) -> None:
        """PyTorch's own end of a stream would wait for it."""
        stream = make(batches(), workers=1)
        process = next(stream)["process"][0]
        lock = stream._iterator._workers_done_event._cond
        assert lock.acquire(timeout=10)  # as the killed one would have it
        os.kill(process, signal.SIGKILL)
        stream.close()
        ended = threading.Thread(target=stream._iterator.__del__, daemon=True)
        ended.start()
        ended.join(10)
        assert not ended.is_alive()

    def test_a_later_stream_may_get_the_address_of_a_closed_one(self, make: MakeStream) -> None:
        """PyTorch lists workers by their iterator's address, and refuses one that is listed."""
        stream = make(batches(), workers=1)
        address = id(stream._iterator)
        with pytest.raises(ValueError, match="only once"):
            signal_handling._set_worker_pids(address, (os.getpid(),))
        stream.close()
        stream.close()
        signal_handling._set_worker_pids(address, (os.getpid(),))
        signal_handling._remove_worker_pids(address)

    def test_a_killed_worker_does_not_interrupt_the_step_that_is_running(self, make: MakeStream) -> None:
        stream = make(batches(), workers=1)
        os.kill(next(stream)["process"][0], signal.SIGKILL)
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            torch.rand(10)

    @pytest.mark.parametrize("workers", [0, 1])
    @pytest.mark.parametrize("error", [RuntimeError, FileNotFoundError, EOFError])
    def test_lets_an_error_of_the_loader_say_what_it_is(self, error: type[Exception], workers: int,
                                                        make: MakeStream) -> None:
        stream = make(batches(FailingLoader(error)), workers=workers)
        with pytest.raises(error, match="case 7 cannot be used"):
            next(stream)


def blurs(transform: ComposeTransforms) -> Iterator[GaussianBlurTransform]:
    for part in transform.transforms:
        inner = part.transform if isinstance(part, RandomTransform) else part
        if isinstance(inner, GaussianBlurTransform):
            yield inner


class TestWithoutTiming:
    def test_switches_every_stopwatch_of_nnu_net_off(self) -> None:
        stock = transforms()
        assert [blur.benchmark for blur in blurs(stock)] == [True]
        quiet = without_timing(stock)
        assert quiet is stock
        assert [blur.benchmark for blur in blurs(quiet)] == [False]

    def test_finds_a_blur_that_stands_alone(self) -> None:
        assert without_timing(GaussianBlurTransform(1.0, benchmark=True)).benchmark is False


class TestWithoutIntensityChanges:
    def test_moves_and_mirrors_voxels_and_changes_no_intensity(self) -> None:
        transform = without_intensity_changes(transforms())
        for part in transform.transforms:
            if isinstance(part, SpatialTransform):
                part.p_rotation = part.p_scaling = 0
        image = torch.rand(2, 24, 24, generator=torch.Generator().manual_seed(0))
        for seed in range(20):
            torch.manual_seed(seed)
            np.random.seed(seed)
            changed = transform(image=image.clone(), segmentation=torch.zeros(1, 24, 24, dtype=torch.int16))["image"]
            flips = [image.flip(axes) for axes in ([], [1], [2], [1, 2])]
            assert any(torch.allclose(changed, flipped, atol=1e-6) for flipped in flips)


class TestForegroundShare:
    @pytest.mark.parametrize(("batch_size", "forced"), [(4, 2), (6, 2), (8, 2), (12, 4), (24, 8)])
    def test_gives_each_half_what_nnunet_gives_a_batch_of_its_size(self, batch_size: int, forced: int) -> None:
        share = foreground_share(batch_size, 0.33)
        samples = [not index < round(batch_size * (1 - share)) for index in range(batch_size)]  # nnU-Net's rule
        stock_half = [not index < round(batch_size // 2 * (1 - 0.33)) for index in range(batch_size // 2)]
        assert sum(samples) == forced
        assert sum(samples[0::2]) == sum(samples[1::2]) == sum(stock_half)

    def test_leaves_a_batch_of_two_as_it_is(self) -> None:
        assert foreground_share(2, 0.33) == 0.33


@pytest.fixture
def trainer(own_results: Path) -> Fuse4SegTrainer:
    trainer = make_trainer(Training("990", "2d", 0, device="cpu"))
    trainer.initialize()
    return trainer


class TestWorkers:
    @pytest.mark.parametrize(("allowed", "training", "validation"), [(0, 1, 1), (1, 1, 1), (12, 12, 3)])
    def test_are_nnu_net_s_and_a_quarter_for_validation(self, allowed: int, training: int, validation: int,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(loaders, "get_allowed_n_proc_DA", lambda: allowed)
        assert [workers_of(stream) for stream in range(3)] == [training, validation, training]


class TestStreamsOfATraining:
    """Mirrored and changed images are for a follower that learns."""

    def drawn(self, trainer: Fuse4SegTrainer, stream: int) -> dict[str, Any]:
        batches = batch_stream(trainer, batch_makers(trainer)[stream == VALIDATION_STREAM], stream=stream, start=0)
        try:
            return next(batches)
        finally:
            batches.close()

    def test_of_training_says_how_the_follower_sees_the_fused_image(self, trainer: Fuse4SegTrainer) -> None:
        batch = self.drawn(trainer, TRAIN_STREAM)
        samples = len(batch["data"])
        assert batch["flips"].shape == (samples, 2)
        assert batch["viewing"].shape == (samples, len(UNCHANGED))
        assert "present" not in batch

    @pytest.mark.parametrize("stream", [VALIDATION_STREAM, PRETRAIN_STREAM])
    def test_of_others_says_nothing(self, stream: int, trainer: Fuse4SegTrainer) -> None:
        assert not {"flips", "viewing", "present"} & self.drawn(trainer, stream).keys()

    def test_of_a_training_without_changes_says_nothing_of_them(self, own_results: Path) -> None:
        trainer = make_trainer(Training("990", "2d", 0, device="cpu", changes=("bilevel.viewing=",)))
        trainer.initialize()
        batch = self.drawn(trainer, TRAIN_STREAM)
        assert "flips" in batch
        assert "viewing" not in batch

    def test_of_a_training_without_mirroring_draws_no_flips(self, own_results: Path) -> None:
        trainer = make_trainer(Training("990", "2d", 0, device="cpu", changes=("bilevel.mirroring=false",)))
        trainer.initialize()
        batch = self.drawn(trainer, TRAIN_STREAM)
        assert "flips" not in batch
        assert "viewing" in batch


class TestMemoryForBatches:
    def test_is_that_of_real_batches(self, trainer: Fuse4SegTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
        needed: dict[str, int] = {}
        for name in ("require_memory", "require_shared_memory"):
            monkeypatch.setattr(loaders, name, lambda size, *, name=name, **_: needed.update({name: size}))
        require_memory_for_batches(trainer)
        batch = batch_makers(trainer)[0].generate_train_batch()
        whole_resolution = batch["target"][0] if isinstance(batch["target"], list) else batch["target"]
        prepared = (workers_of(0) + workers_of(1)) * PREFETCHED * (batch["data"].nbytes + whole_resolution.nbytes)
        assert needed["require_shared_memory"] == prepared
        assert needed["require_memory"] == prepared + 3 * sum(weight.nbytes for weight in trainer.network.parameters())

    def test_is_asked_for_before_anything_is_trained(self, trainer: Fuse4SegTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("fuse4seg.machine.free_shared_memory", lambda: 0)
        with pytest.raises(NotEnoughMemoryError, match="preparing batches in 2 processes needs at least .*--shm-size"):
            trainer.run_training()
        assert trainer.stop is None
        assert not list(Path(trainer.output_folder).glob("*.lock"))

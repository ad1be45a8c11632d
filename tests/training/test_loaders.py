"""The batches of a training: what is drawn for each stream, and what they need, counted as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fuse4seg.errors import NotEnoughMemoryError
from fuse4seg.steps.viewing import UNCHANGED
from fuse4seg.training import loaders
from fuse4seg.training.data import (
    PREFETCHED,
    PRETRAIN_STREAM,
    TRAIN_STREAM,
    VALIDATION_STREAM,
    batch_makers,
    batch_stream,
    require_memory_for_batches,
    workers_of,
)
from fuse4seg.training.run import Training, make_trainer
from fuse4seg.training.trainer import Fuse4SegTrainer


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


class TestBatchStream:
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
        trainer = make_trainer(Training("990", "2d", 0, device="cpu"), chosen={"viewing": ["none"]})
        trainer.initialize()
        batch = self.drawn(trainer, TRAIN_STREAM)
        assert "flips" in batch
        assert "viewing" not in batch


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

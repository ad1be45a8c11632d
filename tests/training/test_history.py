"""The training's log: one value per epoch and entry, a picture of it, and its way through a checkpoint."""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from nnunetv2.training.logging.nnunet_logger import MetaLogger

from fuse4seg.checkpoint import load_checkpoint, save_checkpoint
from fuse4seg.errors import UnwritableFolderError
from fuse4seg.training.history import BILEVEL_ENTRIES, History, log_epoch


class Other:
    """A logger such as that of Weights & Biases."""

    def __init__(self) -> None:
        self.logged: list[tuple[str, float, int]] = []

    def log(self, key: str, value: float, step: int) -> None:
        self.logged.append((key, value, step))


def logger_of(history: History, *others: Other) -> MetaLogger:
    """As a trainer has it."""
    logger = MetaLogger("nowhere", resume=False)
    logger.local_logger, logger.loggers = history, list(others)
    return logger


def history_of(epochs: int, **always: float) -> History:
    """A training's log after so many epochs."""
    history = History()
    for epoch in range(epochs):
        for entry in ("mean_fg_dice", "ema_fg_dice", "train_losses", "val_losses", "lrs"):
            history.log(entry, np.float32(0.5 / (epoch + 1)), epoch)
        log_epoch(logger_of(history), {"upper": 1 / (epoch + 1), "lower": 1.1 / (epoch + 1), "fusion": 0.3, "leader_lrs": 1e-3,
                                       **always}, epoch)
    return history


class TestLogEpoch:
    def test_keeps_all_entries_aligned_where_an_epoch_lacks_some(self) -> None:
        history = History()
        for epoch, report in enumerate([{"upper": 1.0}, {"upper": 0.5, "ratio": 0.9}, {"ratio": 0.8}]):
            log_epoch(logger_of(history), report, epoch)
        logged = {entry: history.my_fantastic_logging[entry] for entry in BILEVEL_ENTRIES}
        assert {len(values) for values in logged.values()} == {3}
        np.testing.assert_array_equal(logged["upper"], [1, 0.5, math.nan])
        np.testing.assert_array_equal(logged["ratio"], [math.nan, 0.9, 0.8])
        np.testing.assert_array_equal(logged["texture"], [math.nan] * 3)

    def test_passes_over_what_is_not_logged(self) -> None:
        history = History()
        log_epoch(logger_of(history), {"upper": 1.0, "something else": 3.0}, 0)
        assert "something else" not in history.my_fantastic_logging

    def test_tells_other_loggers_what_there_is(self) -> None:
        other = Other()
        log_epoch(logger_of(History(), other), {"upper": 1.0, "ratio": 0.9, "something else": 3.0}, 4)
        assert other.logged == [("upper", 1.0, 4), ("ratio", 0.9, 4)]

    def test_keeps_nnu_net_s_entries(self) -> None:
        assert {"mean_fg_dice", "train_losses", "val_losses", "lrs"} <= set(History().my_fantastic_logging)


class TestProgressPicture:
    @pytest.mark.parametrize("epochs", [1, 30])
    def test_is_an_image_with_something_drawn(self, tmp_path: Path, epochs: int) -> None:
        history_of(epochs, ratio=0.9, intensity=0.1).plot_progress_png(str(tmp_path))
        assert [path.name for path in tmp_path.iterdir()] == ["progress.png"]
        picture = plt.imread(tmp_path / "progress.png")
        assert picture.shape[:2] == (640, 960)
        assert (picture[..., :3] < 0.9).any(axis=2).mean() > 0.01
        assert plt.get_fignums() == []

    def test_changes_with_what_was_logged(self, tmp_path: Path) -> None:
        pictures = []
        for ratio in (math.nan, 0.5):
            history_of(4, ratio=ratio).plot_progress_png(str(tmp_path))
            pictures.append(plt.imread(tmp_path / "progress.png"))
        blue = [(picture[320:, :480, 2] - picture[320:, :480, 0] > 0.3).sum() for picture in pictures]
        assert blue[0] == 0
        assert blue[1] > 200

    @pytest.mark.parametrize(("dice", "title", "axes"), [([0.5], "segmentation losses, and Dice (dotted)", 5),
                                                         ([], "fusion loss in training and validation", 4)])
    def test_shows_dice_where_there_is_something_to_segment(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                            dice: list[float], title: str, axes: int) -> None:
        history = history_of(1)
        history.log("dice_per_class_or_region", dice, 0)
        with monkeypatch.context() as patch:
            patch.setattr(plt, "close", lambda _: None)
            history.plot_progress_png(str(tmp_path))
        drawn = plt.gcf().axes
        plt.close("all")
        assert drawn[0].get_title() == title
        assert len(drawn) == axes

    def test_of_a_folder_that_is_not_there_is_an_error_of_ours(self, tmp_path: Path) -> None:
        with pytest.raises(UnwritableFolderError, match="nowhere"):
            history_of(1).plot_progress_png(str(tmp_path / "nowhere"))
        plt.close("all")


class TestCheckpoint:
    def test_brings_every_entry_back(self, tmp_path: Path) -> None:
        history = history_of(3)
        save_checkpoint({"logging": history.get_checkpoint()}, tmp_path / "model.pth")
        restored = History()
        restored.load_checkpoint(load_checkpoint(tmp_path / "model.pth")["logging"])
        assert set(restored.my_fantastic_logging) == set(history.my_fantastic_logging)
        for entry, values in history.my_fantastic_logging.items():
            np.testing.assert_array_equal(restored.my_fantastic_logging[entry], values)
        log_epoch(logger_of(restored), {"upper": 0.1}, 3)
        assert restored.my_fantastic_logging["upper"][-2:] == [1 / 3, 0.1]

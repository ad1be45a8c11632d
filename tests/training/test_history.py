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
from fuse4seg.training.history import BILEVEL_ENTRIES, RATE, History, log_epoch, log_pretraining


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


class TestLogPretraining:
    def test_keeps_an_epoch_s_losses_together_and_tells_others_each(self) -> None:
        other, history = Other(), History()
        for epoch, total in enumerate((1.0, 0.5)):
            log_pretraining(logger_of(history, other), {"total": total, RATE: 1e-3}, epoch)
        assert history.my_fantastic_logging["pretraining"] == [{"total": 1.0, RATE: 1e-3}, {"total": 0.5, RATE: 1e-3}]
        assert other.logged == [("pretraining/total", 1.0, 0), ("pretraining/rate", 1e-3, 0), ("pretraining/total", 0.5, 1),
                                ("pretraining/rate", 1e-3, 1)]

    def test_is_taken_up_by_stage_2(self) -> None:
        history = History()
        history.take_up_pretraining([{"total": 1.0}])
        log_pretraining(logger_of(history), {"total": 0.5}, 1)
        assert history.get_value("pretraining", step=None) == [{"total": 1.0}, {"total": 0.5}]


class TestLastEpoch:
    def entries(self, history: History, **values: object) -> History:
        for entry, value in {"epoch_start_timestamps": 10.0, "epoch_end_timestamps": 12.5, **values}.items():
            history.log(entry, value, 0)
        return history

    def test_says_losses_dice_and_seconds(self) -> None:
        history = self.entries(history_of(1, ratio=0.9), dice_per_class_or_region=[0.5, 0.25])
        assert history.last_epoch() == ("upper 1.0000, lower 1.1000, fusion 0.3000, ratio 0.9000, pseudo Dice 0.500, 0.250, "
                                        "2.5 s")

    def test_says_the_fusion_loss_where_nothing_is_segmented(self) -> None:
        history = self.entries(history_of(1, upper=math.nan, lower=math.nan), dice_per_class_or_region=[], val_losses=0.25)
        assert history.last_epoch() == "fusion 0.3000, validation fusion 0.2500, 2.5 s"


class TestProgressPicture:
    #: Titles of plots by what is logged beside losses and rates.
    FUSION, RATIO = "fusion losses (unweighted parts)", "Gauss-Newton ratio r"
    SEGMENTATION, RATES = "segmentation losses, and Dice (dotted)", "learning rates of follower and leader"
    ALONE = "fusion loss in training and validation"

    def titles(self, history: History, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """Of the plots; each must show something, and lie apart from the others."""
        with monkeypatch.context() as patch:
            patch.setattr(plt, "close", lambda _: None)
            history.plot_progress_png(str(folder))
        plots = [axes for axes in plt.gcf().axes if axes.get_title()]
        assert all(axes.get_lines() for axes in plots)
        boxes = [axes.get_position() for axes in plots]
        assert not any(one.overlaps(other) for number, one in enumerate(boxes) for other in boxes[:number])
        plt.close("all")
        return [axes.get_title() for axes in plots]

    @pytest.mark.parametrize("epochs", [1, 30])
    def test_is_an_image_with_something_drawn(self, tmp_path: Path, epochs: int) -> None:
        history = history_of(epochs)
        history.log("dice_per_class_or_region", [0.5], epochs - 1)
        for number, ratio in enumerate((math.nan, 0.9)):
            history.log("ratio", ratio, epochs - 1)
            history.plot_progress_png(str(tmp_path))
            assert [path.name for path in tmp_path.iterdir()] == ["progress.png"]
            picture = plt.imread(tmp_path / "progress.png")
            # Three plots, of which the last fills its row, and four.
            assert picture.shape[:2] == (640, 960), number
            assert (picture[..., :3] < 0.9).any(axis=2).mean() > 0.01
        assert plt.get_fignums() == []

    def test_shows_what_there_is_of_a_segmentation(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        history = history_of(2, ratio=math.nan, intensity=0.1)
        history.log("dice_per_class_or_region", [0.5], 1)
        assert self.titles(history, tmp_path, monkeypatch) == [self.SEGMENTATION, self.FUSION, self.RATES]
        history.log("ratio", 0.9, 1)
        assert self.titles(history, tmp_path, monkeypatch) == [self.SEGMENTATION, self.FUSION, self.RATIO, self.RATES]
        history.take_up_pretraining([{"total": 1.0, RATE: 1e-3}])
        assert self.titles(history, tmp_path, monkeypatch) == [
            "pre-training losses (unweighted parts)", self.SEGMENTATION, self.FUSION, self.RATIO, self.RATES]

    def test_shows_nothing_of_the_follower_where_nothing_is_segmented(self, tmp_path: Path,
                                                                      monkeypatch: pytest.MonkeyPatch) -> None:
        history = history_of(2)
        history.log("dice_per_class_or_region", [], 1)
        assert self.titles(history, tmp_path, monkeypatch) == [self.ALONE, self.FUSION, "learning rate of the leader"]

    def test_of_stage_1_is_one_plot_of_its_losses(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        history = History()
        history.take_up_pretraining([{"total": 1.0, "content": 0.5, RATE: 1e-3}])
        assert self.titles(history, tmp_path, monkeypatch) == ["pre-training losses (unweighted parts)"]
        assert plt.imread(tmp_path / "progress.png").shape[:2] == (320, 960)

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

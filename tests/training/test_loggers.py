"""What a training logs: the History, whole and aligned, its picture, and loggers beside it that hold the same."""

from __future__ import annotations

import importlib.util
import math
import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from nnunetv2.training.logging.nnunet_logger import MetaLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fuse4seg.checkpoint import load_checkpoint, save_checkpoint
from fuse4seg.cli.train import main
from fuse4seg.errors import OptionError, UnwritableFolderError
from fuse4seg.training import loggers
from fuse4seg.training.loggers import (
    BILEVEL_ENTRIES,
    PAUSE,
    RATE,
    BothStages,
    History,
    TensorBoard,
    add_loggers,
    log_beside,
    log_epoch,
    log_pretraining,
    require_loggers,
    wandb_asked,
)

FOLD = Path("Dataset990_Phantom", "Fuse4SegTrainer__Fuse4SegPlans__2d", "fold_0")
Interrupted = Callable[..., AbstractContextManager[None]]


def read(folder: Path) -> EventAccumulator:
    """What TensorBoard shows of a folder."""
    events = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0})
    events.Reload()
    return events


def scalars(events: EventAccumulator, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in events.Scalars(tag)]


class Other:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def update_config(self, config: dict[str, Any]) -> None:
        self.told.append(("config", config))

    def log(self, key: str, value: Any, step: int) -> None:
        self.told.append((key, value, step))

    def log_summary(self, key: str, value: Any) -> None:
        self.told.append((key, value))


class TestTensorBoard:
    def test_holds_numbers_under_headings_and_pictures(self, tmp_path: Path) -> None:
        board = TensorBoard(tmp_path / "events")
        picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        for step in range(2):
            board.log("edges", np.float32(0.5 + step), step)
            board.log("visibility/a-b", 0.75, step)
        board.log("epoch_end_timestamps", 1e9, 0)
        board.log("panel", picture, 1)
        events = read(tmp_path / "events")
        assert events.Tags()["scalars"] == ["fusion_losses/edges", "visibility/a-b"]
        assert scalars(events, "fusion_losses/edges") == [(0, 0.5), (1, 1.5)]
        shown, = events.Images("panel")
        assert (shown.step, shown.width, shown.height) == (1, 30, 20)

    def test_passes_over_what_an_interrupted_training_does_again(self, tmp_path: Path) -> None:
        for first, value in ((0, 1.0), (2, 2.0)):
            board = TensorBoard(tmp_path)
            for step in range(first, first + 4):
                board.log("upper", value, step)
        assert scalars(read(tmp_path), "losses/upper") == [(0, 1), (1, 1), (2, 2), (3, 2), (4, 2), (5, 2)]

    def test_makes_no_folder_before_there_is_something_to_write(self, tmp_path: Path) -> None:
        board = TensorBoard(tmp_path / "events")
        board.update_config({})
        board.log_summary("Dice", 0.9)
        assert not (tmp_path / "events").exists()


class TestBothStages:
    def test_counts_stage_2_on_from_stage_1(self) -> None:
        other = Other()
        both = BothStages(other, before=3)
        both.log("pretraining/total", 0.5, 2)
        both.log("upper", 0.25, 0)
        both.log_summary("Dice", 0.9)
        assert other.told == [("pretraining/total", 0.5, 2), ("upper", 0.25, 3), ("Dice", 0.9)]


class TestAddLoggers:
    def test_keeps_those_that_are_there_and_makes_nothing_unasked(self, tmp_path: Path) -> None:
        logger, other = MetaLogger("nowhere", resume=False), Other()
        logger.local_logger, logger.loggers = History(), [other]
        add_loggers(logger, fold=tmp_path, tensorboard=False, before=2)
        logger.log("mean_fg_dice", 0.5, 0)
        log_beside(logger, {"panel": "a picture"}, 1)
        assert other.told == [("mean_fg_dice", 0.5, 2), ("ema_fg_dice", 0.5, 2), ("panel", "a picture", 3)]
        assert list(tmp_path.iterdir()) == []


@pytest.fixture
def watched(own_results: Path, training_flags: list[str], interrupted: Interrupted, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fold trained under TensorBoard, interrupted after it had logged an epoch that it had not saved, and taken up.

    The phantom's lesions are so small that few voxels of them have to do.
    """
    monkeypatch.setattr("fuse4seg.evaluation.visibility.LEAST_VOXELS", 50)
    flags = [*training_flags, "--tensorboard", "--save_every", "2"]
    with interrupted("pre-training", epoch=1):
        assert main(flags) == 130
    assert main([*flags, "--c"]) == 0
    return own_results / FOLD


class TestTraining:
    def test_shows_what_the_history_holds_once_over_both_stages_and_is_not_disturbed(
            self, watched: Path, trained_model: Path, differences: Callable[[Any, Any], list[str]]) -> None:
        final = torch.load(watched / "checkpoint_final.pth", weights_only=True)
        undisturbed = torch.load(trained_model / "fold_0" / "checkpoint_final.pth", weights_only=True)
        assert differences(final, undisturbed) == []
        events, logged = read(watched / "tensorboard"), final["logging"]
        tags = set(events.Tags()["scalars"])
        for tag in sorted(tags):
            found = scalars(events, tag)
            if tag.startswith("pretraining/"):
                wanted = [(epoch, report[tag.split("/")[1]]) for epoch, report in enumerate(logged["pretraining"])]
            elif tag.startswith("visibility/"):
                assert all(0.5 <= value <= 1 for _, value in found)
                continue
            elif "/class_" in tag:
                number = int(tag.rpartition("_")[2]) - 1
                wanted = [(2 + epoch, dice[number]) for epoch, dice in enumerate(logged["dice_per_class_or_region"])]
            else:
                wanted = [(2 + epoch, value) for epoch, value in enumerate(logged[tag.split("/")[1] if "/" in tag else tag])]
            np.testing.assert_allclose(found, wanted, rtol=1e-6, err_msg=tag)
        assert {"pretraining/total", "pretraining/rate", "losses/upper", "losses/lower",
                "losses/val_losses", "fusion_losses/fusion", "validation/ema_fg_dice", "ratio", "learning_rates/lrs",
                "learning_rates/leader_lrs", "dice_per_class_or_region/class_3"} <= tags
        assert {tag.partition("/")[0] for tag in tags} >= {"visibility"}
        assert [image.step for image in events.Images("panel")] == [2, 3]


class TestRequireLoggers:
    @pytest.fixture
    def nothing_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        there = importlib.util.find_spec
        monkeypatch.setattr(loggers, "find_spec", lambda name: None if name in ("tensorboard", "wandb") else there(name))

    @pytest.mark.usefixtures("nothing_installed")
    def test_names_the_extra_before_anything_is_written(self, own_results: Path, training_flags: list[str],
                                                        capsys: pytest.CaptureFixture[str],
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
        assert main([*training_flags, "--tensorboard"]) == 1
        assert capsys.readouterr().err == ("error: --tensorboard: TensorBoard is not installed. Install it with: pip install "
                                           "'fuse4seg[tensorboard]'\n")
        monkeypatch.setenv("nnUNet_wandb_enabled", "True")
        assert main(training_flags) == 1
        said = capsys.readouterr().err
        assert said.startswith("error: nnUNet_wandb_enabled: Weights & Biases is not installed. Install it with: pip install")
        assert said.count("\n") == 1
        assert not own_results.exists()

    @pytest.mark.usefixtures("nothing_installed")
    def test_asks_for_nothing_that_is_not_wanted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for no in ("0", "False", "false"):
            monkeypatch.setenv("nnUNet_wandb_enabled", no)
            require_loggers(tensorboard=False)

    def test_refuses_what_nnunet_does_not_understand(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("nnUNet_wandb_enabled", "maybe")
        with pytest.raises(OptionError, match="^nnUNet_wandb_enabled: must be 0 or 1, got 'maybe'"):
            require_loggers(tensorboard=False)


def wandb_records(path: Path) -> Iterator[Any]:
    """Records of a run's file: LevelDB's log format behind a header of seven bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, at, parts = path.read_bytes(), 7, b""
    while at + 7 <= len(content):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        length, kind = struct.unpack("<HB", content[at + 4:at + 7])
        parts += content[at + 7:at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last of its parts
            record = Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


class TestWeightsAndBiases:
    def test_holds_what_the_history_holds_over_both_stages(self, own_results: Path, training_flags: list[str],
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("nnUNet_wandb_enabled", "1")
        monkeypatch.setenv("nnUNet_wandb_mode", "offline")
        import wandb

        try:
            assert main(training_flags) == 0
        finally:
            wandb.finish()
        logged = torch.load(own_results / FOLD / "checkpoint_final.pth", weights_only=True)["logging"]
        file, = (own_results / FOLD / "wandb").glob("offline-run-*/*.wandb")
        found: dict[str, list[float]] = {}
        for record in wandb_records(file):
            for item in record.history.item:
                found.setdefault("/".join([item.key, *item.nested_key]).strip("/"), []).append(item.value_json)
        assert [float(value) for value in found["upper"]] == pytest.approx(logged["upper"])
        assert [float(value) for value in found["pretraining/total"]] == pytest.approx(
            [report["total"] for report in logged["pretraining"]])
        assert [float(value) for value in found["ema_fg_dice"]] == pytest.approx(logged["ema_fg_dice"])
        assert [int(value) for value in found["_step"]] == [0, 1, 2, 3]
        assert len(found["panel/path"]) == 2

    def test_that_does_not_open_is_an_error_of_ours(self) -> None:
        from wandb.errors import UsageError

        with pytest.raises(OptionError, match=r"does not open \(no key\). Log in with wandb login, or set nnUNet_wandb_mode"), \
                wandb_asked():
            raise UsageError("no key")
        with pytest.raises(ZeroDivisionError), wandb_asked():
            raise ZeroDivisionError


class Logged:
    """A logger such as that of Weights & Biases."""

    def __init__(self) -> None:
        self.logged: list[tuple[str, float, int]] = []

    def log(self, key: str, value: float, step: int) -> None:
        self.logged.append((key, value, step))


def logger_of(history: History, *others: Logged) -> MetaLogger:
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
        other = Logged()
        log_epoch(logger_of(History(), other), {"upper": 1.0, "ratio": 0.9, "something else": 3.0}, 4)
        assert other.logged == [("upper", 1.0, 4), ("ratio", 0.9, 4)]

    def test_keeps_nnu_net_s_entries(self) -> None:
        assert {"mean_fg_dice", "train_losses", "val_losses", "lrs"} <= set(History().my_fantastic_logging)


class TestLogPretraining:
    def test_keeps_an_epoch_s_losses_together_and_tells_others_each(self) -> None:
        other, history = Logged(), History()
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
            history.draw(folder)
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
            history.draw(tmp_path)
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
            history_of(1).draw(tmp_path / "nowhere")
        plt.close("all")

    def test_is_drawn_again_after_a_while_and_at_the_end(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        now = [0.0]
        monkeypatch.setattr(loggers, "monotonic", lambda: now[0])
        history, picture = history_of(1), tmp_path / "progress.png"
        for seconds, drawn in ((PAUSE - 1, False), (PAUSE, True), (2 * PAUSE - 1, False), (2 * PAUSE, True)):
            now[0] = seconds
            picture.unlink(missing_ok=True)
            history.plot_progress_png(str(tmp_path))
            assert picture.is_file() == drawn
        picture.unlink()
        history.draw_rest(tmp_path)
        assert not picture.exists()
        history.log("ratio", 0.9, 0)
        history.draw_rest(tmp_path)
        assert picture.is_file()


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

"""What a training logs per epoch, and its picture; and loggers beside: TensorBoard, and Weights & Biases by nnU-Net's own."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import MaxNLocator
from nnunetv2.training.logging.nnunet_logger import LocalLogger, MetaLogger, WandbLogger

from fuse4seg.checkpoint import to_plain
from fuse4seg.errors import OptionError, first_line
from fuse4seg.files import written_whole
from fuse4seg.recipes.recipe import Losses

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

#: Kept beside nnU-Net's own entries; NaN where an epoch has none (a fusion loss of weight 0, no ratio, one loss for both levels).
FUSION_LOSSES = tuple(part.name for part in fields(Losses))
BILEVEL_ENTRIES = ("upper", "lower", "auxiliary", "fusion", *FUSION_LOSSES, "discriminator", "ratio", "leader_lrs")
#: Stage 1: of each of its epochs the losses, by the names that the leader gives them, and the learning rate.
PRETRAINING, RATE = "pretraining", "rate"
#: Inches of a plot that has a row of two to itself, and of a row.
WIDTH, HEIGHT = 12, 4
#: Seconds between pictures; the end of a training has one in any case.
PAUSE = 10
#: In the fold's folder.
EVENTS = "tensorboard"
#: nnU-Net's variable, and what it takes for yes and for no.
WANDB, YES, NO = "nnUNet_wandb_enabled", ("1", "True", "true"), ("0", "False", "false")
#: Heading in TensorBoard of entries that have none of their own.
HEADINGS = {"losses": ("upper", "lower", "auxiliary", "train_losses", "val_losses"),
            "fusion_losses": ("fusion", *FUSION_LOSSES, "discriminator"), "validation": ("mean_fg_dice", "ema_fg_dice"),
            "learning_rates": ("lrs", "leader_lrs")}
HEADING_OF = {entry: heading for heading, entries in HEADINGS.items() for entry in entries}

Draw = Callable[[plt.Axes], None]


def log_epoch(logger: MetaLogger, report: dict[str, float], epoch: int) -> None:
    """Log the means of an epoch of stage 2.

    The History gets every entry, NaN where there is none; further loggers (``trainer.logger.loggers``, as nnU-Net's of Weights &
    Biases) get those that there are.
    """
    for entry in BILEVEL_ENTRIES:
        to = logger if entry in report else logger.local_logger
        to.log(entry, report.get(entry, math.nan), epoch)


def log_pretraining(logger: MetaLogger, report: dict[str, float], epoch: int) -> None:
    """Log the means of an epoch of stage 1; further loggers get them one by one, as pretraining/NAME."""
    logger.local_logger.log(PRETRAINING, report, epoch)
    for name, value in report.items():
        for other in logger.loggers:
            other.log(f"{PRETRAINING}/{name}", value, epoch)


class History(LocalLogger):
    """nnU-Net's per-epoch log, with both levels' losses, each fusion loss and the ratio r, and what stage 1 reported."""

    def __init__(self) -> None:
        super().__init__(verbose=False)
        self._drawn_at, self._undrawn = monotonic(), False
        for entry in (*BILEVEL_ENTRIES, PRETRAINING):
            self.my_fantastic_logging[entry] = []

    def log(self, key: str, value: Any, epoch: int) -> None:
        """Log an epoch's value, as it would come out of a checkpoint; that of an epoch which was taken up again is replaced."""
        values = self.my_fantastic_logging[key]
        values[epoch:] = [to_plain(value)]
        self._undrawn = True

    def take_up_pretraining(self, reports: list[dict[str, float]]) -> None:
        """Go on from what stage 1 left."""
        self.my_fantastic_logging[PRETRAINING] = list(reports)

    def last_epoch(self) -> str:
        """How the last epoch of stage 2 went, on one line."""
        last = {entry: values[-1] for entry, values in self.my_fantastic_logging.items() if values}
        seconds = last["epoch_end_timestamps"] - last["epoch_start_timestamps"]
        dice = ", ".join(f"{value:.3f}" for value in last["dice_per_class_or_region"])
        shown = [f"{name} {last[name]:.4f}" for name in ("upper", "lower", "fusion", "ratio") if np.isfinite(last[name])]
        scored = f"pseudo Dice {dice}" if dice else f"validation fusion {last['val_losses']:.4f}"
        return f"{', '.join(shown)}, {scored}, {seconds:.1f} s"

    def plot_progress_png(self, output_folder: str) -> None:
        """:meth:`draw`, unless that was done less than PAUSE seconds ago, as in epochs that take less time than a picture."""
        if monotonic() - self._drawn_at >= PAUSE:
            self.draw(Path(output_folder))

    def draw_rest(self, folder: Path) -> None:
        """:meth:`draw`, if something was logged since."""
        if self._undrawn:
            self.draw(folder)

    def draw(self, folder: Path) -> None:
        """Draw progress.png: of both stages' losses, Dice, the ratio r and the learning rates what there is."""
        plots = self._plots()
        if len(plots) % 2:
            plots.append(plots[-1])  # the last one fills its row
        figure = plt.figure(figsize=(WIDTH, HEIGHT * len(plots) / 2), constrained_layout=True)
        places = figure.subplot_mosaic([[plots.index(plot) for plot in plots[row:row + 2]] for row in range(0, len(plots), 2)])
        for place, axes in places.items():
            plots[place](axes)
        with written_whole(folder / "progress.png") as temporary:
            figure.savefig(temporary, dpi=80)
        plt.close(figure)
        self._drawn_at, self._undrawn = monotonic(), False

    def _plots(self) -> list[Draw]:
        """What there is to draw; at least one plot."""
        segments = any(self.my_fantastic_logging["dice_per_class_or_region"])
        lines = {"fusion losses (unweighted parts)": ("fusion", *FUSION_LOSSES, "discriminator"),
                 "Gauss-Newton ratio r": ("ratio",)}
        if segments:
            lines["learning rates of follower and leader"] = ("lrs", "leader_lrs")
        else:
            lines = {"fusion loss in training and validation": ("train_losses", "val_losses"), **lines,
                     "learning rate of the leader": ("leader_lrs",)}
        found: list[Draw] = [self._draw_pretraining] if self.my_fantastic_logging[PRETRAINING] else []
        found += [self._draw_segmentation] if segments else []
        found += [partial(self._draw, entries=entries, title=title) for title, entries in lines.items()
                  if any(np.isfinite(self.my_fantastic_logging[entry]).any() for entry in entries)]
        return found

    def _draw_pretraining(self, axes: plt.Axes) -> None:
        reports = self.my_fantastic_logging[PRETRAINING]
        for name in reports[0]:
            if name != RATE:
                _line(axes, [report[name] for report in reports], name)
        _finish(axes, "pre-training losses (unweighted parts)")

    def _draw_segmentation(self, axes: plt.Axes) -> None:
        self._draw(axes, ("upper", "lower", "auxiliary", "val_losses"), "segmentation losses, and Dice (dotted)")
        beside = axes.twinx()
        beside.plot(self.my_fantastic_logging["mean_fg_dice"], "k:", label="pseudo Dice")
        beside.set_ylim(0, 1)

    def _draw(self, axes: plt.Axes, entries: tuple[str, ...], title: str) -> None:
        for entry in entries:
            values = self.my_fantastic_logging[entry]
            if np.isfinite(values).any():
                _line(axes, values, entry)
        _finish(axes, title)


def _line(axes: plt.Axes, values: list[float], label: str) -> None:
    axes.plot(values, label=label, marker="." if len(values) < 20 else None)


def _finish(axes: plt.Axes, title: str) -> None:
    axes.set(title=title, xlabel="epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()


class Logger(Protocol):
    """What nnU-Net's MetaLogger asks of a logger beside the local one."""

    def update_config(self, config: dict[str, Any]) -> None:
        """Note how the training is set up."""

    def log(self, key: str, value: Any, step: int) -> None:
        """Note an entry's value of an epoch."""

    def log_summary(self, key: str, value: Any) -> None:
        """Note a value of the whole training."""


class TensorBoard:
    """Writes TensorBoard's event files; a resumed training replaces there what it does again.

    Args:
        folder: Where; made with the first value.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: SummaryWriter | None = None

    def update_config(self, config: dict[str, Any]) -> None:
        """Nothing: TensorBoard has no place for plans, which lie beside it."""

    def log(self, key: str, value: Any, step: int) -> None:
        """Write a number, or a picture, uint8 of shape (Y, X, 3); times of day are TensorBoard's own."""
        if key.endswith("timestamps"):
            return
        writer, tag = self._open(step), f"{HEADING_OF[key]}/{key}" if key in HEADING_OF else key
        if isinstance(value, np.ndarray):
            writer.add_image(tag, value, step, dataformats="HWC")
        else:
            writer.add_scalar(tag, float(value), step)
        writer.flush()  # at once: a killed training loses none

    def log_summary(self, key: str, value: Any) -> None:
        """Nothing: what is known of the whole lies in files."""

    def _open(self, step: int) -> SummaryWriter:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter  # takes its time

            # What an interrupted training wrote from here on is passed over by readers.
            self._writer = SummaryWriter(str(self._folder), purge_step=step)
        return self._writer


class BothStages:
    """Another logger, which sees the epochs of stage 2 counted on from those of stage 1.

    Args:
        logger: The other.
        before: Epochs of stage 1.
    """

    def __init__(self, logger: Logger, *, before: int) -> None:
        self.logger, self.before = logger, before
        self.update_config, self.log_summary = logger.update_config, logger.log_summary

    def log(self, key: str, value: Any, step: int) -> None:
        """Hand on an entry's value of an epoch of its stage."""
        if isinstance(value, np.ndarray) and isinstance(self.logger, WandbLogger):
            import wandb

            value = wandb.Image(value)
        self.logger.log(key, value, step if key.startswith(f"{PRETRAINING}/") else step + self.before)


def add_loggers(logger: MetaLogger, *, fold: Path, tensorboard: bool, before: int) -> None:
    """Give nnU-Net's logger TensorBoard, where it is wanted, and let what it has besides see both stages.

    Args:
        logger: nnU-Net's.
        fold: The fold's folder.
        tensorboard: Whether TensorBoard is wanted.
        before: Epochs of stage 1.
    """
    others: list[Logger] = [*logger.loggers, *([TensorBoard(fold / EVENTS)] if tensorboard else [])]
    logger.loggers = [BothStages(other, before=before) for other in others]


def log_beside(logger: MetaLogger, values: dict[str, Any], epoch: int) -> None:
    """Log what the History does not keep: pictures, and numbers that only some epochs have."""
    for other in logger.loggers:
        for key, value in values.items():
            other.log(key, value, epoch)


def require_loggers(*, tensorboard: bool) -> None:
    """Make sure that the libraries of the loggers that are asked for are there.

    Raises:
        OptionError: One is not, or nnU-Net's variable says neither yes nor no.
    """
    if tensorboard and find_spec("tensorboard") is None:
        raise OptionError("--tensorboard", "TensorBoard is not installed. Install it with: pip install 'fuse4seg[tensorboard]'")
    wanted = os.environ.get(WANDB, NO[0])
    if wanted not in (*YES, *NO):
        raise OptionError(WANDB, f"must be 0 or 1, got {wanted!r}.")
    if wanted in YES and find_spec("wandb") is None:
        raise OptionError(WANDB, "Weights & Biases is not installed. Install it with: pip install 'fuse4seg[wandb]', or set this "
                                 "to 0.")


@contextmanager
def wandb_asked() -> Iterator[None]:
    """Within the block nnU-Net opens Weights & Biases, which may want an account, or a network.

    Raises:
        OptionError: It does not open.
    """
    try:
        yield
    except Exception as error:
        if type(error).__module__.partition(".")[0] != "wandb":
            raise
        raise OptionError(WANDB, f"Weights & Biases does not open ({first_line(error)}). Log in with wandb login, or set "
                                 f"nnUNet_wandb_mode=offline.") from error

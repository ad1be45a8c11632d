"""What a training logs per epoch, and its picture."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import MaxNLocator
from nnunetv2.training.logging.nnunet_logger import LocalLogger, MetaLogger

from fuse4seg.checkpoint import to_plain
from fuse4seg.files import written_whole
from fuse4seg.recipes.recipe import Losses

#: Kept beside nnU-Net's own entries; NaN where an epoch has none (a fusion loss of weight 0, no ratio, one loss for both levels).
FUSION_LOSSES = tuple(part.name for part in fields(Losses))
BILEVEL_ENTRIES = ("upper", "lower", "auxiliary", "fusion", *FUSION_LOSSES, "discriminator", "ratio", "leader_lrs")
#: Stage 1: of each of its epochs the losses, by the names that the leader gives them, and the learning rate.
PRETRAINING, RATE = "pretraining", "rate"
#: Inches of a plot that has a row of two to itself, and of a row.
WIDTH, HEIGHT = 12, 4

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
        for entry in (*BILEVEL_ENTRIES, PRETRAINING):
            self.my_fantastic_logging[entry] = []

    def log(self, key: str, value: Any, epoch: int) -> None:
        """Log an epoch's value, as it would come out of a checkpoint; that of an epoch which was taken up again is replaced."""
        values = self.my_fantastic_logging[key]
        values[epoch:] = [to_plain(value)]

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
        """Draw progress.png: of both stages' losses, Dice, the ratio r and the learning rates what there is."""
        plots = self._plots()
        if len(plots) % 2:
            plots.append(plots[-1])  # the last one fills its row
        figure = plt.figure(figsize=(WIDTH, HEIGHT * len(plots) / 2), constrained_layout=True)
        places = figure.subplot_mosaic([[plots.index(plot) for plot in plots[row:row + 2]] for row in range(0, len(plots), 2)])
        for place, axes in places.items():
            plots[place](axes)
        with written_whole(Path(output_folder) / "progress.png") as temporary:
            figure.savefig(temporary, dpi=80)
        plt.close(figure)

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

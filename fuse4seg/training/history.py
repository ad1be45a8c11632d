"""What a training logs per epoch, and its picture."""

from __future__ import annotations

import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from nnunetv2.training.logging.nnunet_logger import LocalLogger, MetaLogger

from fuse4seg.checkpoint import to_plain
from fuse4seg.files import written_whole
from fuse4seg.recipes.recipe import Losses

#: Kept beside nnU-Net's own entries; NaN where an epoch has none (a fusion loss of weight 0, no ratio, one loss for both levels).
FUSION_LOSSES = tuple(part.name for part in fields(Losses))
BILEVEL_ENTRIES = ("upper", "lower", "auxiliary", "fusion", *FUSION_LOSSES, "discriminator", "ratio", "leader_lrs")


def log_epoch(logger: MetaLogger, report: dict[str, float], epoch: int) -> None:
    """Log an epoch's means; stage 1 is not logged.

    The History gets every entry, NaN where there is none; further loggers (``trainer.logger.loggers``, as nnU-Net's of Weights &
    Biases) get those that there are.
    """
    for entry in BILEVEL_ENTRIES:
        to = logger if entry in report else logger.local_logger
        to.log(entry, report.get(entry, math.nan), epoch)


class History(LocalLogger):
    """nnU-Net's per-epoch log, with both levels' losses, each fusion loss and the ratio r."""

    def __init__(self) -> None:
        super().__init__(verbose=False)
        for entry in BILEVEL_ENTRIES:
            self.my_fantastic_logging[entry] = []

    def log(self, key: str, value: Any, epoch: int) -> None:
        """Log an epoch's value, as it would come out of a checkpoint; that of an epoch which was taken up again is replaced."""
        values = self.my_fantastic_logging[key]
        values[epoch:] = [to_plain(value)]

    def plot_progress_png(self, output_folder: str) -> None:
        """Draw progress.png: segmentation losses and Dice, fusion losses, the ratio r, and the learning rates."""
        figure, axes = plt.subplots(2, 2, figsize=(12, 8), constrained_layout=True)
        self._draw_segmentation(axes[0, 0])
        self._draw(axes[0, 1], ("fusion", *FUSION_LOSSES, "discriminator"), "fusion losses (unweighted parts)")
        self._draw(axes[1, 0], ("ratio",), "Gauss-Newton ratio r")
        self._draw(axes[1, 1], ("lrs", "leader_lrs"), "learning rates of follower and leader")
        with written_whole(Path(output_folder) / "progress.png") as temporary:
            figure.savefig(temporary, dpi=80)
        plt.close(figure)

    def _draw_segmentation(self, axes: plt.Axes) -> None:
        if not any(self.my_fantastic_logging["dice_per_class_or_region"]):
            self._draw(axes, ("train_losses", "val_losses"), "fusion loss in training and validation")
            return
        self._draw(axes, ("upper", "lower", "auxiliary", "val_losses"), "segmentation losses, and Dice (dotted)")
        beside = axes.twinx()
        beside.plot(self.my_fantastic_logging["mean_fg_dice"], "k:", label="pseudo Dice")
        beside.set_ylim(0, 1)

    def _draw(self, axes: plt.Axes, entries: tuple[str, ...], title: str) -> None:
        for entry in entries:
            values = np.asarray(self.my_fantastic_logging[entry], dtype=float)
            if np.isfinite(values).any():
                axes.plot(values, label=entry, marker="." if len(values) < 20 else None)
        axes.set(title=title, xlabel="epoch")
        if axes.get_lines():
            axes.legend()

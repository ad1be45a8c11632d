"""Loggers beside the History: TensorBoard, and Weights & Biases by nnU-Net's own; both see both stages on one axis of epochs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from nnunetv2.training.logging.nnunet_logger import MetaLogger, WandbLogger

from fuse4seg.errors import OptionError, first_line
from fuse4seg.training.history import FUSION_LOSSES, PRETRAINING

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

#: In the fold's folder.
EVENTS = "tensorboard"
#: nnU-Net's variable, and what it takes for yes and for no.
WANDB, YES, NO = "nnUNet_wandb_enabled", ("1", "True", "true"), ("0", "False", "false")
#: Heading in TensorBoard of entries that have none of their own.
HEADINGS = {"losses": ("upper", "lower", "auxiliary", "train_losses", "val_losses"),
            "fusion_losses": ("fusion", *FUSION_LOSSES, "discriminator"), "validation": ("mean_fg_dice", "ema_fg_dice"),
            "learning_rates": ("lrs", "leader_lrs")}
HEADING_OF = {entry: heading for heading, entries in HEADINGS.items() for entry in entries}


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

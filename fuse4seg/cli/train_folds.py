"""Several folds of one training side by side: processes of the ordinary command, and a line for each in the end."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from fuse4seg.cli.command import words_of
from fuse4seg.errors import FaultyTrainingsError, OptionError
from fuse4seg.side_by_side import Errand, last_line, own_command, run_errands

log = logging.getLogger(__name__)


def run_folds(run: Callable[[argparse.Namespace], None], parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Train one fold here, or several in processes of their own, one at a time on each device.

    Args:
        run: Trains ``options.fold`` here.
        parser: Of the command.
        options: What it parsed; its folds are a list.

    Raises:
        OptionError: The folds or devices do not go together.
        FaultyTrainingsError: Some folds failed; the others are trained.
    """
    folds = options.fold
    if len(set(folds)) < len(folds):
        raise OptionError("fold", f"{' '.join(map(str, folds))} names one twice. Give each once.")
    if len(folds) == 1 and options.devices is None:
        run(argparse.Namespace(**{**vars(options), "fold": folds[0]}))
        return
    if options.num_gpus > 1:
        raise OptionError("-num_gpus", "shares the batches of one fold, on GPUs that it chooses. Train one fold at a time with "
                                       "it, without --devices.")
    if options.devices is not None and options.device is not None:
        raise OptionError("--devices", "says where to compute. Leave out -device.")
    from fuse4seg.machine import choose_device, require_devices

    devices = require_devices(options.devices or [choose_device(options.device).type])
    place = _place(options)
    errands = [Errand(f"fold {fold}", partial(_words, parser, options, fold), place / f"fold_{fold}.log", dict(os.environ))
               for fold in folds]
    log.info("training folds %s; each says how it goes in %s", ", ".join(map(str, folds)), place / "fold_<n>.log")
    ended = dict(run_errands(errands, devices=devices, doing="training", unit="fold"))
    said = {errand: f"{errand.name}: {last_line(errand.log)}" for errand in errands}
    for errand in errands:
        if ended[errand] == 0:
            log.info("%s", said[errand])
    if faults := [said[errand] for errand in errands if ended[errand]]:
        raise FaultyTrainingsError(faults, mend="Mend the cause, and train these folds again with --c.")


def _words(parser: argparse.ArgumentParser, options: argparse.Namespace, fold: int | str, kind: str) -> list[str]:
    one = argparse.Namespace(**{**vars(options), "fold": [fold], "devices": None, "device": kind})
    return own_command("train", *words_of(parser, one))


def _place(options: argparse.Namespace) -> Path:
    """The model's folder."""
    from fuse4seg.paths import RESULTS, data_root, dataset_name
    from fuse4seg.training.run import Training

    name = Training(options.dataset, options.configuration, options.fold[0], options.plans, options.trainer,
                    changes=tuple(options.changes)).folder_name
    return data_root(RESULTS) / dataset_name(options.dataset) / name

"""Stage 2 from its beginning, or from where it was left, to its end: nnU-Net's epochs, as many as patience and time allow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from fuse4seg.progress import whole_progress
from fuse4seg.training.limits import Pace, epochs_since_best
from fuse4seg.training.saving import MidEpoch
from fuse4seg.training.state import seed_all, set_random_states

if TYPE_CHECKING:
    from fuse4seg.training.trainer import Fuse4SegTrainer

STAGE = 2


class Stage2:
    """Trains both levels together.

    Args:
        trainer: Initialised, with what it goes on from taken up.
    """

    def __init__(self, trainer: Fuse4SegTrainer) -> None:
        self.trainer, self.planned = trainer, trainer.num_epochs
        self.mid_epoch = MidEpoch(trainer.save_mid_epoch, minutes=trainer.save_every_minutes, stop=trainer.stop,
                                  deadline=trainer.deadline)

    def run(self, random_states: dict[str, Any] | None) -> None:
        """Do the epochs that are missing.

        Args:
            random_states: What the generators go on from; None at the beginning.
        """
        trainer, iterations = self.trainer, self.trainer.num_iterations_per_epoch
        trainer.on_train_start()
        if random_states is None:
            seed_all(trainer.seed, STAGE)
        else:
            set_random_states(random_states, trainer.device)
        pace, begin = Pace(trainer.deadline), trainer.current_epoch
        done = trainer.current_epoch * iterations + len(trainer.epoch.reports)
        with whole_progress(trainer.epoch.stage, done=done, total=self.planned * iterations) as bar:
            while not self._has_lost_patience() and self._fit(pace):
                # One that compiles takes longer than the others.
                whole = not (trainer.epoch.reports or trainer.acceleration.compile and trainer.current_epoch == begin)
                self._run_epoch(bar)
                pace.epoch_is_done(whole=whole)
        if not trainer.local_rank:
            trainer.logger.local_logger.draw_rest(Path(trainer.output_folder))
        trainer.on_train_end()

    def _run_epoch(self, bar: tqdm[Any]) -> None:
        trainer = self.trainer
        trainer.on_epoch_start()
        trainer.on_train_epoch_start()
        trainer.epoch.number = trainer.current_epoch
        trainer.epoch.run(trainer.dataloader_train, trainer.train_step, iterations=trainer.num_iterations_per_epoch,
                          epochs=trainer.num_epochs, shown="loss", mid_epoch=self.mid_epoch, bar=bar)
        trainer.on_train_epoch_end(trainer.epoch.reports)
        with torch.no_grad():
            trainer.on_validation_epoch_start()
            trainer.on_validation_epoch_end(self._validate())
        trainer.on_epoch_end()
        self.mid_epoch.is_saved()

    def _validate(self) -> list[dict[str, Any]]:
        outputs = []
        for _ in range(self.trainer.num_val_iterations_per_epoch):
            outputs.append(self.trainer.validation_step(self.mid_epoch.draw(self.trainer.dataloader_val)))
            self.mid_epoch.after_iteration()
        return outputs

    def _has_lost_patience(self) -> bool:
        """Whether so many epochs were no better than the best."""
        trainer = self.trainer
        since = epochs_since_best(trainer.logger.get_value("ema_fg_dice", step=None))
        if since < trainer.limits.patience or trainer.current_epoch == self.planned:
            return False
        trainer.say(f"no better for {since} epochs, so the training ends after {trainer.current_epoch} of {self.planned} epochs. "
                    f"The best one was epoch {trainer.current_epoch - 1 - since}.")
        return True

    def _fit(self, pace: Pace) -> bool:
        """Let the learning rates reach their end with the last epoch that the time allows; returns whether one is left."""
        trainer, done = self.trainer, self.trainer.current_epoch
        epochs = pace.reachable(done=done, planned=self.planned)
        if epochs < self.planned == trainer.num_epochs:
            trainer.say(f"the time allows {epochs} of {self.planned} epochs; learning rates are fitted to them.")
        if epochs == done < self.planned:
            trainer.say(f"the time is up after {done} of {self.planned} epochs.")
        trainer.fit_schedules(epochs)
        return done < epochs

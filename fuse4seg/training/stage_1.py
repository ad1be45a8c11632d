"""Stage 1 from its beginning, or from where it was left, to its end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from fuse4seg.checkpoint import load_first_sound, previous_of, require_same_plans, save_checkpoint
from fuse4seg.model_errors import CheckpointError
from fuse4seg.progress import whole_progress
from fuse4seg.ranks import wait_for_all
from fuse4seg.recipes.reading import to_plain
from fuse4seg.steps.schedule import Schedule
from fuse4seg.training.data import PRETRAIN_STREAM, Batch, BatchStream, batch_makers, batch_stream
from fuse4seg.training.epoch import Epoch, mean_of
from fuse4seg.training.limits import Pace
from fuse4seg.training.loggers import PRETRAINING, log_pretraining
from fuse4seg.training.saving import MidEpoch
from fuse4seg.training.state import random_states, require_finite_weights, seed_all, set_random_states

if TYPE_CHECKING:
    from fuse4seg.training.trainer import Fuse4SegTrainer

PRETRAINED = "pretrained.pth"
PRETRAINING_LATEST = "pretraining_latest.pth"
STAGE = 1


class Stage1:
    """Trains a trainer's leader to take modalities apart and put them together again.

    Args:
        trainer: Initialised.
    """

    def __init__(self, trainer: Fuse4SegTrainer) -> None:
        recipe = trainer.recipe
        self.trainer, self.planned, self.iterations = trainer, recipe.pretraining.epochs, recipe.training.iterations
        self.step = trainer.levels.pretraining_step()
        self.schedule = Schedule([self.step.optimiser, self.step.discriminator_optimiser], start=recipe.leader.rate,
                                 epochs=self.planned, shape=recipe.leader.schedule)
        self.latest = Path(trainer.output_folder) / PRETRAINING_LATEST
        self.epoch = Epoch("pre-training", 0, [])

    def run(self, *, followed_by: int) -> None:
        """Go on where it was left, and leave pretrained.pth.

        Args:
            followed_by: Epochs of stage 2, for which time is to be left: an epoch counts alike in both.

        Raises:
            CheckpointError: What it left is damaged, of other plans, or of another recipe.
            TrainingStoppedError: A signal asked it to stop, or the time of the whole training was up; everything is saved.
        """
        trainer = self.trainer
        states = self._take_up()
        mid_epoch = MidEpoch(self.save, minutes=trainer.save_every_minutes, stop=trainer.stop, deadline=trainer.deadline)
        done = self.epoch.number * self.iterations + len(self.epoch.reports)
        batches = batch_stream(trainer, batch_makers(trainer)[0], stream=PRETRAIN_STREAM, start=done)
        if states is None:
            seed_all(trainer.seed, STAGE)
        else:
            set_random_states(states, trainer.device)
        trainer.network.train()
        missing = self.planned - self.epoch.number
        pace = Pace(trainer.deadline.after(missing / max(1, missing + followed_by)))
        with whole_progress(self.epoch.stage, done=done, total=self.planned * self.iterations) as bar:
            while self._fit(pace):
                whole = not self.epoch.reports
                self._run_epoch(batches, mid_epoch, bar)
                pace.epoch_is_done(whole=whole)
        self.save(self.latest.with_name(PRETRAINED))
        if not (followed_by or trainer.local_rank):
            trainer.logger.local_logger.draw_rest(Path(trainer.output_folder))
        wait_for_all()
        for left in (self.latest, previous_of(self.latest)):
            left.unlink(missing_ok=True)

    def _fit(self, pace: Pace) -> bool:
        """Let the rates reach their end with the last epoch that its part of the time allows; returns whether one is left."""
        epochs = pace.reachable(done=self.epoch.number, planned=self.planned)
        if epochs < self.planned == self.schedule.epochs:
            self.trainer.say(f"the time allows {epochs} of {self.planned} epochs of pre-training; its rates are fitted to them.")
        self.schedule.epochs = epochs
        return self.epoch.number < epochs

    def _run_epoch(self, batches: BatchStream, mid_epoch: MidEpoch, bar: tqdm[Any]) -> None:
        trainer = self.trainer
        self.schedule.step(self.epoch.number)
        self.epoch.run(batches, self._step, iterations=self.iterations, epochs=self.schedule.epochs, shown="total",
                       mid_epoch=mid_epoch, bar=bar)
        require_finite_weights(trainer.levels, self.epoch)
        means = mean_of(self.epoch.reports)
        log_pretraining(trainer.logger, {**means, "rate": self.step.optimiser.param_groups[0]["lr"]}, self.epoch.number)
        if not trainer.local_rank:
            trainer.logger.plot_progress_png(trainer.output_folder)
        report = ", ".join(f"{name} {value:.4f}" for name, value in means.items())
        trainer.say(f"pre-training epoch {self.epoch.number}: {report}")
        self.epoch.advance()
        if self.epoch.number % trainer.save_every == 0 and self.epoch.number < self.schedule.epochs:
            self.save()
            mid_epoch.is_saved()

    def save(self, path: Path | None = None) -> Path:
        """Write everything that goes on from here; returns where.

        Raises:
            NonFiniteLossError: The last step spoilt the weights; nothing was written.
        """
        trainer, levels = self.trainer, self.trainer.levels
        require_finite_weights(levels, self.epoch)
        path = path or self.latest
        if trainer.local_rank:
            return path
        save_checkpoint({
            "fusion": trainer.network.fusion.state_dict(), "discriminators": levels.adversary.state_dict(),
            "optimiser": self.step.optimiser.state_dict(),
            "discriminator_optimiser": levels.discriminator_optimiser.state_dict(),
            "epochs_done": self.epoch.number, "reports": self.epoch.reports,
            "logging": trainer.logger.get_value(PRETRAINING, step=None), "random_states": random_states(trainer.device),
            "recipe": to_plain(trainer.recipe), "seed": trainer.seed, "init_args": trainer.my_init_kwargs,
        }, path, keep_previous=path == self.latest)
        return path

    def _step(self, batch: Batch) -> dict[str, float]:
        return self.step(batch["data"].to(self.trainer.device, non_blocking=True), batch.get("present"))

    def _take_up(self) -> dict[str, Any] | None:
        """Take up what an interrupted stage 1 left; returns its random states, None where there is nothing."""
        left = [path for path in (self.latest, previous_of(self.latest)) if path.is_file()]
        if not left:
            return None
        path, state = load_first_sound(left)
        if differing := difference_in_stage_1(state, self.trainer):
            raise CheckpointError(path, f"was trained with another {differing}. Remove it to pre-train anew.")
        require_same_plans(state, path, self.trainer.plans_manager.plans)
        take_up_leader(self.trainer, path, state, self.step.optimiser)
        self.epoch = Epoch(self.epoch.stage, state["epochs_done"], state["reports"])
        self.trainer.say(f"pre-training goes on with epoch {self.epoch.number}, iteration {len(self.epoch.reports)}")
        return state["random_states"]


def difference_in_stage_1(state: dict[str, Any], trainer: Fuse4SegTrainer) -> str | None:
    """The first entry of the recipe in which what stage 1 left differs from what a trainer is to do; None where none does."""
    begun, wanted = state.get("recipe", {}), to_plain(trainer.recipe)
    of_stage_1 = {"pretraining": None, "leader": None, "training": ("iterations",)}
    differing = [f"{section}.{entry}" for section, entries in of_stage_1.items() for entry in entries or wanted[section]
                 if begun.get(section, {}).get(entry) != wanted[section][entry]]
    return next(iter(["seed"] * (state.get("seed") != trainer.seed) + differing), None)


def take_up_leader(trainer: Fuse4SegTrainer, path: Path, state: dict[str, Any],
                   optimiser: torch.optim.Optimizer | None = None) -> None:
    """Give a trainer the fusion network and the discriminators that stage 1 left in ``path``.

    Raises:
        CheckpointError: They do not fit.
    """
    try:
        trainer.network.fusion.load_state_dict(state["fusion"])
        trainer.levels.adversary.load_state_dict(state["discriminators"])
        trainer.levels.discriminator_optimiser.load_state_dict(state["discriminator_optimiser"])
        trainer.logger.local_logger.take_up_pretraining(state["logging"])
        if optimiser is not None:
            optimiser.load_state_dict(state["optimiser"])
    except (RuntimeError, KeyError, ValueError) as error:
        raise CheckpointError(path, "does not fit these plans. Delete it to pre-train anew.") from error

"""Several processes train what one trains: whatever the method, however many, and through a change of their number."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from tests.ranks import start_ranks

PLANS, ALONE = "Fuse4SegPlans", "FusionAlone"
#: Whatever is random, or no mean over the batch, takes part.
RANDOM = ("losses.edges=1", "losses.ssim=1", "losses.vif=0.2", "losses.scd=0.3", "losses.chroma=0.1",
          "losses.decomposition=0.5", "losses.adversarial=0.02", "training.modality_dropout=0.3")
METHODS = {"joint": (PLANS, ("bilevel.hypergradient=joint", "pretraining.epochs=0")),
           "gauss_newton": (PLANS, ("bilevel.hypergradient=gauss_newton", "pretraining.epochs=0")),
           "none": (PLANS, ("bilevel.hypergradient=none", "pretraining.epochs=0")),
           "stage 1, adversaries, dropout": (PLANS, ("bilevel.hypergradient=gauss_newton", "pretraining.epochs=1", *RANDOM)),
           "fusion alone": (ALONE, ("pretraining.epochs=0", *RANDOM))}
#: Of float64. What Adam makes of gradients that are nothing but rounding is larger than rounding.
EQUAL = 1e-8
#: Weights below this decide nothing: biases in front of a normalisation, which stay where rounding puts them.
NOTHING = 1e-6


class Float64:
    """nnU-Net's Dice is summed in float32; with this in the place of torch in its file it is not."""

    float32 = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def train_in_float64() -> None:
    """From here on, in this process: float32 says nothing of what is equal, as every order of a sum has another rounding."""
    from nnunetv2.training.loss import dice

    from fuse4seg.training.data import SeededBatches

    torch.set_default_dtype(torch.float64)
    dice.torch = Float64()
    torch.Tensor.float = torch.Tensor.double
    of_float32 = SeededBatches.__getitem__

    def as_double(batches: SeededBatches, index: int) -> dict[str, Any]:
        torch.set_default_dtype(torch.float32)  # in a process that does nothing else
        torch.Tensor.float = lambda tensor: tensor.to(torch.float32)
        batch = of_float32(batches, index)
        return {**batch, "data": batch["data"].double()}

    SeededBatches.__getitem__ = as_double


class Running(NamedTuple):
    """Ranks of a training, where its results go, and whether it will be stopped."""

    results: Path
    processes: list[Any]
    stopped: bool


class Trainings:
    """Trainings of one fold by any number of ranks, without the validation at the end.

    Args:
        folder: Gets a folder of preprocessed data, plans of ``batch`` samples and fusion alone among them, and of results.
        planned: Roots of the phantom.
        start: Starts a process.
        batch: Samples.
    """

    def __init__(self, folder: Path, planned: Path, start: Callable[..., Any], *, batch: int) -> None:
        from fuse4seg.files import read_json, write_json
        from fuse4seg.planning.options import PlanOptions
        from fuse4seg.planning.planner import plan_experiment
        from tests.conftest import HARDLY

        self.folder, self.planned, self._start = folder, planned, start
        shutil.copytree(planned / "nnUNet_preprocessed", folder / "nnUNet_preprocessed")
        plans = folder / "nnUNet_preprocessed" / "Dataset990_Phantom"
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("nnUNet_preprocessed", str(plans.parent))
            changes = [change for change in HARDLY if "cross_attention" not in change]
            plan_experiment(990, PlanOptions("fusion_alone", tuple(changes), gpu_memory_target=0.1, plans_name=ALONE))
        for name in (PLANS, ALONE):
            content = read_json(plans / f"{name}.json", ValueError)
            content["configurations"]["2d"]["batch_size"] = batch
            write_json(content, plans / f"{name}.json")

    def run(self, name: str, ranks: int, **options: Any) -> dict[str, Any]:
        """The checkpoint that a training leaves; arguments as :meth:`start` takes them."""
        return self.finish(self.start(name, ranks, **options))

    def start(self, name: str, ranks: int, *, method: str = "gauss_newton", iterations: int, epochs: int = 1,
              resume: bool = False, double: bool = True, stop_after: int | None = None) -> Running:
        """Begin a training.

        Args:
            name: Of its results.
            ranks: How many train.
            method: One of METHODS.
            iterations: Of an epoch.
            epochs: Of stage 2.
            resume: Go on with what lies there.
            double: In float64.
            stop_after: The last rank is asked to stop, by a signal, after so many iterations.
        """
        plans, changes = METHODS[method]
        flags = ["990", "2d", "0", "-device", "cpu", "-p", plans, "--set", *changes, f"training.epochs={epochs}",
                 f"training.iterations={iterations}", *(["--c"] if resume else [])]

        def work() -> int:
            os.environ["nnUNet_preprocessed"] = str(self.folder / "nnUNet_preprocessed")
            os.environ["nnUNet_results"] = str(self.folder / name)
            from fuse4seg.cli.train import main
            from fuse4seg.training.epoch import Epoch
            from fuse4seg.training.trainer import Fuse4SegTrainer

            Fuse4SegTrainer.perform_actual_validation = lambda *_: None
            if double:
                train_in_float64()
            if stop_after is not None and os.environ.get("RANK", str(ranks - 1)) == str(ranks - 1):
                step, count = Epoch.run, itertools.count(1)

                def stopping(epoch: Epoch, batches: Any, train: Callable[[Any], Any], **options: Any) -> None:
                    def counted(batch: Any) -> Any:
                        if next(count) == stop_after:
                            os.kill(os.getpid(), signal.SIGTERM)
                        return train(batch)
                    step(epoch, batches, counted, **options)

                Epoch.run = stopping
            return main(flags)

        return Running(self.folder / name, start_ranks(self._start, work, ranks, self.folder / name / "logs"),
                       stopped=stop_after is not None)

    def finish(self, running: Running) -> dict[str, Any]:
        """The checkpoint that a training leaves, once it has ended as it should."""
        try:
            statuses = [process.wait(1800) for process in running.processes]
        finally:
            for process in running.processes:
                process.end_group()
        said = "\n".join(path.read_text() for path in sorted((running.results / "logs").iterdir()))
        assert statuses == [143 if running.stopped else 0] * len(statuses), said
        fold, = running.results.rglob("fold_0")
        return torch.load(fold / ("checkpoint_latest.pth" if running.stopped else "checkpoint_final.pth"), weights_only=True)


def difference(found: dict[str, Any], wanted: dict[str, Any]) -> float:
    """Largest relative difference of any of a training's tensors: networks, discriminators, and what moves them."""
    worst = 0.0
    for part in ("network_weights", "discriminators", "auxiliary_head"):
        for name, tensor in (wanted[part] or {}).items():
            scale = tensor.double().norm()
            if scale > NOTHING:
                worst = max(worst, float((found[part][name].double() - tensor.double()).norm() / scale))
    return worst


@pytest.fixture(scope="module")
def trainings(planned_phantom: Path, tmp_path_factory: pytest.TempPathFactory, start_process: Callable[..., Any]) -> Trainings:
    return Trainings(tmp_path_factory.mktemp("ranks"), planned_phantom, start_process, batch=4)


class TestRanks:
    def test_train_what_one_trains(self, trainings: Trainings) -> None:
        one, two = (trainings.run(f"equal_{ranks}", ranks, method="stage 1, adversaries, dropout", iterations=2)
                    for ranks in (1, 2))
        assert difference(two, one) < EQUAL
        assert two["logging"]["mean_fg_dice"] == pytest.approx(one["logging"]["mean_fg_dice"], rel=1e-6)
        for entry in ("upper", "lower", "fusion", "adversarial", "chroma", "discriminator", "ratio", "val_losses"):
            assert two["logging"][entry] == pytest.approx(one["logging"][entry], rel=1e-9), entry

    def test_go_on_from_each_other_s_checkpoints(self, trainings: Trainings) -> None:
        """Stopped by a signal to one rank alone, in the middle of an epoch."""
        undisturbed = trainings.run("undisturbed", 1, iterations=3)
        for begun, ended in ((2, 1), (1, 2)):
            name = f"from_{begun}_to_{ended}"
            left = trainings.run(name, begun, iterations=3, stop_after=2)
            assert len(left["reports"]) == 2
            assert difference(trainings.run(name, ended, iterations=3, resume=True), undisturbed) < EQUAL

    @pytest.mark.faults
    def test_train_what_one_trains_for_twenty_iterations_by_each_method(
            self, planned_phantom: Path, tmp_path: Path, start_process: Callable[..., Any],
            record_figure: Callable[..., None]) -> None:
        trainings = Trainings(tmp_path, planned_phantom, start_process, batch=8)
        wrong = []
        for method, double in itertools.product(METHODS, (True, False)):
            begun = {ranks: trainings.start(f"{method} {double} {ranks}", ranks, method=method, iterations=20, double=double)
                     for ranks in (1, 2, 4)}
            found = {ranks: trainings.finish(running) for ranks, running in begun.items()}
            worst = {ranks: difference(found[ranks], found[1]) for ranks in (2, 4)}
            record_figure(f"{method}, float{64 if double else 32}, 20 iterations, 2 and 4 ranks: weights",
                          target=f"{EQUAL if double else 1e-5:.0e}", measured=f"{worst[2]:.1e}, {worst[4]:.1e}")
            wrong += [method for share in worst.values() if double and share > EQUAL]
        assert wrong == []

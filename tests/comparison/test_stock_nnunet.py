"""Stock nnU-Net as our peer: its network alone, and batches that hold as much foreground as ours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from fuse4seg.comparison.methods import plans_of, recipe_of
from fuse4seg.comparison.rows import Row
from fuse4seg.comparison.stock_nnunet import make_stock_trainer, stock_plans
from fuse4seg.training.data import batch_makers
from fuse4seg.training.run import Training, make_trainer
from fuse4seg.training.trainer import Fuse4SegTrainer


@pytest.fixture
def stock(planned_phantom: Path, tmp_path: Path,
          monkeypatch: pytest.MonkeyPatch) -> nnUNetTrainer:
    """Initialised, for the phantom's 2d plan, drawing batches in this process."""
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    monkeypatch.setattr("nnunetv2.training.nnUNetTrainer.nnUNetTrainer.get_allowed_n_proc_DA", lambda: 0)
    folder = planned_phantom / "nnUNet_preprocessed" / "Dataset990_Phantom"
    plans, dataset_json = (json.loads((folder / name).read_text()) for name in ("Fuse4SegPlans.json", "dataset.json"))
    trainer = make_stock_trainer({**stock_plans(plans), "continue_training": False}, "2d", 0, dataset_json, torch.device("cpu"))
    trainer.initialize()
    return trainer


@pytest.fixture
def ours(stock: nnUNetTrainer) -> Fuse4SegTrainer:
    """Initialised, beside ``stock``."""
    trainer = make_trainer(Training("990", "2d", 0, device="cpu"))
    trainer.initialize()
    return trainer


@pytest.mark.parametrize("of", [0, 1], ids=["training", "validation"])
def test_forces_as_many_samples_as_we_do(of: int, stock: nnUNetTrainer, ours: Fuse4SegTrainer) -> None:
    loaders = [batch_makers(ours)[of], stock.get_dataloaders()[of].data_loader]
    forced = [[loader.get_do_oversample(sample) for sample in range(loader.batch_size)] for loader in loaders]
    assert forced[0] == forced[1] == [False, False, True, True]


def test_has_the_follower_alone_with_all_channels(stock: nnUNetTrainer, ours: Fuse4SegTrainer) -> None:
    shapes = [[weights.shape for weights in network.parameters()] for network in (ours.network.segmentation, stock.network)]
    # The first convolution, from all modalities, or from the fused image's three channels.
    assert shapes[0][0] == (8, 3, 3, 3)
    assert shapes[1][0] == (8, 4, 3, 3)
    differing = [pair for pair in zip(*shapes, strict=True) if pair[0] != pair[1]]
    assert set(differing) == {(shapes[0][0], shapes[1][0])}


def test_moves_the_network_as_we_move_the_follower(stock: nnUNetTrainer, ours: Fuse4SegTrainer) -> None:
    """By optimisers of one kind and state, with the same result after steps under gradients of different sizes."""
    assert type(stock.optimizer) is torch.optim.SGD
    assert stock.optimizer.param_groups[0]["lr"] == 1e-2
    assert stock.oversample_foreground_percent == 0.5  # of a batch of 4, as ours forces
    follower = ours.levels.follower
    assert ours.optimizer is follower.optimiser
    moved = []
    for optimiser in (stock.optimizer, follower.optimiser):
        weights = [torch.linspace(-1, 1, 6).requires_grad_()]
        again = type(optimiser)(weights, **optimiser.defaults)
        for step in range(1, 4):
            weights[0].grad = (-1) ** step * step * torch.linspace(0, 1, 6)
            again.step()
        moved.append(weights[0].detach())
    assert torch.equal(*moved)


def test_moves_the_usual_follower_as_nnunet_does(stock: nnUNetTrainer) -> None:
    ours, schedule = stock.optimizer, stock.lr_scheduler
    theirs, their_schedule = nnUNetTrainer.configure_optimizers(stock)
    assert type(ours) is type(theirs)
    for settings in ("lr", "momentum", "nesterov", "weight_decay", "dampening"):
        assert ours.param_groups[0][settings] == theirs.param_groups[0][settings]
    assert stock.enable_deep_supervision
    rates = []
    for of in (schedule, their_schedule):
        of.step(1)
        rates.append(of.optimizer.param_groups[0]["lr"])
    assert rates[0] == rates[1] < 1e-2


def test_trains_another_follower_as_its_recipe_says(planned_phantom: Path, tmp_path: Path,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention U-Net by AdamW, with one output."""
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    folder = planned_phantom / "nnUNet_preprocessed" / "Dataset990_Phantom"
    plans, dataset_json = (json.loads((folder / name).read_text()) for name in ("Fuse4SegPlans.json", "dataset.json"))
    row = Row("attention_unet", recipe="attention_unet")
    made = stock_plans(plans_of(row, plans, recipe_of(row, plans), dataset=folder.name, configuration="2d"))
    trainer = make_stock_trainer({**made, "continue_training": False}, "2d", 0, dataset_json, torch.device("cpu"))
    trainer.initialize()
    assert not trainer.enable_deep_supervision
    assert type(trainer.network).__name__ == "GatedUNet"
    assert isinstance(trainer.network(torch.zeros(1, 4, 32, 32)), torch.Tensor)
    assert type(trainer.optimizer) is torch.optim.AdamW
    assert {trainer.optimizer.param_groups[0][name] for name in ("lr", "weight_decay")} == {1e-4, 0.0}

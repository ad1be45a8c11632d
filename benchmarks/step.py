"""Seconds per training iteration over stock nnU-Net's on stacked channels, same plan; and the fusion network over the U-Net.

Example:
    python benchmarks/step.py --root DATA 502 2d -o step.json
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parent))

from timing import add_timing_flags, compare, measure, save, show

from fuse4seg.cli.command import make_parser, run_command

if TYPE_CHECKING:
    import torch

#: What may make our iterations faster, by name.
CHOICES = ("compile", "channels_last", "fused", "unfused", "bfloat16")
#: Our name in the table, without the estimator.
OURS = "Fuse4Seg"
#: The default one.
ESTIMATOR = "gauss_newton"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    parser = make_parser("Time training iterations beside stock nnU-Net's, and the fusion network beside the U-Net.",
                         example="python benchmarks/step.py 502 2d")
    parser.add_argument("dataset")
    parser.add_argument("configuration")
    parser.add_argument("-p", dest="plans", default="Fuse4SegPlans")
    parser.add_argument("-device", choices=("cuda", "cpu", "mps"))
    parser.add_argument("--estimators", nargs="*", default=[ESTIMATOR], metavar="NAME",
                        help="hypergradients to time (default: the default one; none for the networks alone)")
    parser.add_argument("--choices", nargs="*", default=[], choices=CHOICES, metavar="NAME",
                        help=f"time ours with each of these, too, beside ours without: {', '.join(CHOICES)}")
    add_timing_flags(parser, rounds=10)
    return run_command(_run, parser, arguments)


def _run(options: argparse.Namespace) -> None:
    from fuse4seg.comparison.stock_nnunet import stock_plans
    from fuse4seg.machine import choose_device
    from fuse4seg.paths import PREPROCESSED, RESULTS, data_root, dataset_name

    device = choose_device(options.device)
    folder = data_root(PREPROCESSED) / dataset_name(options.dataset)
    plans, dataset_json = (json.loads((folder / name).read_text()) for name in (f"{options.plans}.json", "dataset.json"))
    with tempfile.TemporaryDirectory() as results, ExitStack() as block:
        os.environ[RESULTS] = results
        peer = stock_trainer(stock_plans(plans), dataset_json, options.configuration, device)
        ours = {name: our_trainer(plans, dataset_json, options.configuration, device, name)
                for name in options.estimators or [ESTIMATOR]}
        tables = {"networks": compare(measure(_networks(next(iter(ours.values()))), rounds=options.rounds), peer="U-Net")}
        if options.estimators:
            steps = {"nnU-Net": training_step(peer),
                     **{f"{OURS}, {name}": training_step(trainer) for name, trainer in ours.items()}}
            tables["iterations"] = compare(measure(steps, rounds=options.rounds), peer="nnU-Net")
        if options.choices:
            first = (options.estimators or [ESTIMATOR])[0]
            made = {name: chosen_trainer(name, plans, dataset_json, options.configuration, device, first, block=block)
                    for name in options.choices}
            steps = {name: training_step(trainer) for name, trainer in {OURS: ours[first], **made}.items()}
            tables["choices"] = compare(measure(steps, rounds=options.rounds), peer=OURS)
    for name, rows in tables.items():
        print(f"\n{name}")
        show(rows)
    save({**tables, "plan": peer.configuration_manager.configuration}, options.output, device=device.type)


def stock_trainer(plans: dict, dataset_json: dict, configuration: str, device: Any) -> Any:
    """nnU-Net's, ready to train."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    trainer = nnUNetTrainer({**plans, "continue_training": False}, configuration, 0, dataset_json, device)
    trainer.initialize()
    return trainer


def our_trainer(plans: dict, dataset_json: dict, configuration: str, device: Any, hypergradient: str, *,
                precision: torch.dtype | None = None) -> Any:
    """Ours, ready to train, in its device's usual precision or another, even one that the device imitates."""
    from fuse4seg.recipes.reading import changed
    from fuse4seg.training.acceleration import scaler_of
    from fuse4seg.training.trainer import Fuse4SegTrainer

    trainer = Fuse4SegTrainer({**plans, "continue_training": False}, configuration, 0, dataset_json, device)
    trainer.recipe = changed(trainer.recipe, [f"bilevel.hypergradient={hypergradient}"])
    trainer.initialize()
    if precision is not None:
        trainer.precision, step = precision, trainer.bilevel_step
        trainer.grad_scaler = step.scaler = scaler_of(precision, device)
        step.autocast = trainer.autocast
    return trainer


def chosen_trainer(choice: str, plans: dict, dataset_json: dict, configuration: str, device: Any, hypergradient: str, *,
                   block: ExitStack, backend: str = "inductor") -> Any:
    """Ours with one of CHOICES; networks stay compiled until ``block`` ends."""
    import torch

    from fuse4seg.steps import levels
    from fuse4seg.training.acceleration import compiled

    # None leaves it to PyTorch, as a CPU's default does.
    fused = {"fused": True, "unfused": None}
    with patch.object(levels, "fused_on", lambda _parameters: fused[choice]) if choice in fused else nullcontext():
        trainer = our_trainer(plans, dataset_json, configuration, device, hypergradient,
                              precision=torch.bfloat16 if choice == "bfloat16" else None)
    network = trainer.network
    if choice == "compile":
        block.enter_context(compiled(network, backend=backend))
    if choice == "channels_last":
        axes = len(trainer.configuration_manager.patch_size)
        network.segmentation.to(memory_format=torch.channels_last if axes == 2 else torch.channels_last_3d)
    return trainer


def _batch(trainer: Any) -> Any:
    """Random input, on the CPU as a data loader gives it."""
    import torch

    patch, batch = trainer.configuration_manager.patch_size, trainer.configuration_manager.batch_size
    return torch.randn(batch, trainer.num_input_channels, *patch, generator=torch.Generator().manual_seed(0))


def _networks(trainer: Any) -> dict[str, Callable[[], object]]:
    """Forward and backward of both networks, on a whole batch, for their parameters."""
    import torch

    from fuse4seg.networks.fuse_then_segment import as_read

    trainer.set_deep_supervision_enabled(True)
    model = trainer.network.train()
    channels = _batch(trainer).to(trainer.device)
    fused = as_read(model.fuse(channels).fused.image.detach(), leader=model.fusion)
    passes = {"U-Net": lambda: model.segmentation(fused), "fusion network": lambda: [model.fuse(channels).fused.image]}

    def both_ways(forward: Callable[[], list[Any]]) -> None:
        model.zero_grad(set_to_none=True)
        with torch.autocast(trainer.device.type, enabled=trainer.device.type == "cuda"):
            outputs = forward()
        sum(output.float().square().mean() for output in outputs).backward()
        _wait(trainer.device)

    return {name: lambda forward=forward: both_ways(forward) for name, forward in passes.items()}


def _wait(device: Any) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize()


def training_step(trainer: Any) -> Callable[[], object]:
    """One training step on a random batch."""
    import torch

    data = _batch(trainer)
    labels = torch.randint(0, trainer.label_manager.num_segmentation_heads, (len(data), 1, *data.shape[2:]),
                           generator=torch.Generator().manual_seed(1))
    scales = trainer._get_deep_supervision_scales()
    targets = [torch.nn.functional.interpolate(labels.float(), scale_factor=scale, mode="nearest") for scale in scales]
    trainer.set_deep_supervision_enabled(True)
    trainer.network.train()

    def act() -> object:
        report = trainer.train_step({"data": data, "target": targets, "keys": []})
        _wait(trainer.device)
        return report

    return act


if __name__ == "__main__":
    sys.exit(main())

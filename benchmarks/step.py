"""Seconds per training iteration: ours over stock nnU-Net's on stacked channels, same plan, interleaved in one run.

Example:
    python benchmarks/step.py --root DATA 502 2d -o step.json
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from fuse4seg.cli.command import make_parser, run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    parser = make_parser("Time training iterations of Fuse4Seg and of stock nnU-Net on one batch.",
                         example="python benchmarks/step.py 502 2d")
    parser.add_argument("dataset")
    parser.add_argument("configuration")
    parser.add_argument("-p", dest="plans", default="Fuse4SegPlans")
    parser.add_argument("-device", choices=("cuda", "cpu", "mps"))
    parser.add_argument("--rounds", type=int, default=10, help="interleaved rounds (default: %(default)s)")
    parser.add_argument("-o", dest="output", type=Path, help="write the figures to this JSON file, too")
    return run_command(_run, parser, arguments)


def measure(contenders: dict[str, Callable[[], object]], *, rounds: int) -> dict[str, list[float]]:
    """Seconds of every contender in each round; one round for warming up is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, act in contenders.items():
            start = time.perf_counter()
            act()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def table(seconds: dict[str, list[float]], *, peer: str) -> list[dict[str, Any]]:
    """Median seconds and, round by round, the ratio to ``peer``: median, lowest and highest."""
    rows = []
    for name, values in seconds.items():
        ratios = [value / other for value, other in zip(values, seconds[peer], strict=True)]
        rows.append({"contender": name, "seconds": statistics.median(values), "ratio": statistics.median(ratios),
                     "lowest": min(ratios), "highest": max(ratios)})
    return rows


def _run(options: argparse.Namespace) -> None:
    from stock_nnunet import stock_plans

    from fuse4seg.evaluation.table import format_table
    from fuse4seg.files import write_json
    from fuse4seg.paths import PREPROCESSED, RESULTS, data_root, dataset_name
    from fuse4seg.training.hypergradients import ESTIMATORS
    from fuse4seg.training.run import choose_device

    device = choose_device(options.device)
    folder = data_root(PREPROCESSED) / dataset_name(options.dataset)
    plans, dataset_json = (json.loads((folder / name).read_text()) for name in (f"{options.plans}.json", "dataset.json"))
    with tempfile.TemporaryDirectory() as results:
        os.environ[RESULTS] = results
        peer = _stock(stock_plans(plans), dataset_json, options.configuration, device)
        contenders = {"nnU-Net": _step(peer)}
        for name in ESTIMATORS:
            contenders[f"Fuse4Seg, {name}"] = _step(_ours(plans, dataset_json, options.configuration, device, name))
        rows = table(measure(contenders, rounds=options.rounds), peer="nnU-Net")
    print(format_table(["contender", "seconds", "ratio", "lowest", "highest"], [list(row.values()) for row in rows], decimals=3))
    if options.output:
        write_json({"plan": peer.configuration_manager.configuration, "device": str(device), "rows": rows}, options.output)


def _stock(plans: dict, dataset_json: dict, configuration: str, device: Any) -> Any:
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    trainer = nnUNetTrainer({**plans, "continue_training": False}, configuration, 0, dataset_json, device)
    trainer.initialize()
    return trainer


def _ours(plans: dict, dataset_json: dict, configuration: str, device: Any, hypergradient: str) -> Any:
    from fuse4seg.training.trainer import Fuse4SegTrainer

    trainer = Fuse4SegTrainer({**plans, "continue_training": False}, configuration, 0, dataset_json, device)
    trainer.options = trainer.options.changed(hypergradient=hypergradient)
    trainer.initialize()
    return trainer


def _step(trainer: Any) -> Callable[[], object]:
    """One training step on a random batch, data on the CPU as a data loader gives it."""
    import torch

    generator = torch.Generator().manual_seed(0)
    patch, batch = trainer.configuration_manager.patch_size, trainer.configuration_manager.batch_size
    data = torch.randn(batch, trainer.num_input_channels, *patch, generator=generator)
    labels = torch.randint(0, trainer.label_manager.num_segmentation_heads, (batch, 1, *patch), generator=generator)
    scales = trainer._get_deep_supervision_scales()
    targets = [torch.nn.functional.interpolate(labels.float(), scale_factor=scale, mode="nearest") for scale in scales]
    trainer.set_deep_supervision_enabled(True)
    trainer.network.train()

    def act() -> object:
        report = trainer.train_step({"data": data, "target": targets, "keys": []})
        if trainer.device.type == "cuda":
            torch.cuda.synchronize()
        return report

    return act


if __name__ == "__main__":
    sys.exit(main())
